"""Finding the final answer in a generation, and comparing answers, one kind of answer a file."""
