"""Command line of promptstage."""
