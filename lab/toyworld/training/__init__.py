"""How the toy world's weights are made: `python -m story_identity.lab.toyworld.training --help`."""
