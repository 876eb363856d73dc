"""Objectives: losses that soft prompts are trained with."""
