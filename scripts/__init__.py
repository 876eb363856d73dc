"""Commands behind the Makefile."""
