"""OpenAI-compatible server of trained prompts."""
