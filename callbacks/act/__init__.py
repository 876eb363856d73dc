"""Attention calibration (ACT): the callback, and the file of its head search."""

from promptstage.callbacks.act.callback import ACT as ACT
