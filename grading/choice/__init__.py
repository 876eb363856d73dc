"""Answers to multiple-choice questions: an option's letter, label or text."""
