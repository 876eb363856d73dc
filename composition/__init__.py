"""Runs put together in plain Python: folders, callbacks, loggers and the uses of the trainer."""
