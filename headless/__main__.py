"""`python -m story_identity.headless`, as `story-identity`; torchrun starts it this way."""

from .cli import app

if __name__ == "__main__":
    app()
