"""Benchmarks: `python -m story_identity.lab.bench` runs all; `.attention` and `.masks` are single ones."""
