"""Reading of generations: normalization, turns, sentences, retractions and marked answers of any kind."""
