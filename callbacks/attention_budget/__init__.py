"""Attention budget: the callback, its files and its figure."""

from promptstage.callbacks.attention_budget.callback import AttentionBudget as AttentionBudget
