"""Small things every part of the project needs."""
