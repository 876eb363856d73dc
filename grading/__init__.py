"""Grading of generations: extract the final answer and compare it with the reference, by kind of answer."""
