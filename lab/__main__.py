"""`python -m story_identity.lab`, as `story-identity`; torchrun and accelerate start trainings this way."""

from .cli import app

if __name__ == "__main__":
    app()
