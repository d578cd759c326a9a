"""Benchmarks: `python -m story_identity.lab.bench.attention` and `.masks`."""
