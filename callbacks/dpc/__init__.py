"""Dynamic Prompt Corruption (DPC): the callback, its files, measures and figures."""

from promptstage.callbacks.dpc.callback import DPC as DPC
