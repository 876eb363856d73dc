"""Numeric answers: numbers in running text, and their exact values."""
