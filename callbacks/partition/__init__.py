"""Stages of DHAM: the callback that writes them, and their figures."""

from promptstage.callbacks.partition.callback import CKAPartition as CKAPartition
