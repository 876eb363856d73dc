"""Utilities shared by all packages: errors, files, JSON, YAML and statistics."""
