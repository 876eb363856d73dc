"""Comparisons of several runs in one table, and of their saliency in one figure."""
