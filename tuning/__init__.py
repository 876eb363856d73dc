"""Search for the learning rate, and for length and initialization of a prompt, by validation loss."""
