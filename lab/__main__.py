"""The command `story-identity`, also `python -m story_identity.lab`, as torchrun and accelerate start trainings."""

from ..headless.__main__ import start


def main() -> None:
    """Run the command line with the commands of the laboratory."""
    start(f"{__package__}.cli")


if __name__ == "__main__":
    main()
