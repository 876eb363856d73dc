"""lm-evaluation-harness over a trained prompt."""
