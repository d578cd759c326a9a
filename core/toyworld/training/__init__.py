"""How the toy world's weights are made: `python -m story_identity.core.toyworld.training --help`."""
