"""Composition of runs in plain Python: folders, callbacks, loggers and uses of the trainer."""
