"""PEFT's files: prompts as PEFT stores them, and back."""
