"""Scripts for developers, most of them called by the Makefile."""
