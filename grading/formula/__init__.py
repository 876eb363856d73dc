"""Formulas as answers, and their mathematical equality."""
