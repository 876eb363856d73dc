"""Words as answers."""
