"""The command line behind ``cli.py``."""
