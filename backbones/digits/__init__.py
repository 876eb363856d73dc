"""Configurations of small GPT-2 models over digits, without weights, and the tokenizer that they share."""
