"""Callbacks of every run: folder, results, loggers, checkpoints, progress, signals."""
