"""Make the test story in a folder: `python -m tests.headless.run_once WEIGHTS OUT`; for tests that stop it."""

import sys
from pathlib import Path

from story_identity.headless.run import run_story

from tests.headless.stories import PlaceDetector, settings, story


def main():
    weights, out = map(Path, sys.argv[1:])
    say("begun")
    run_story(story(), settings(weights), out, detector=PlaceDetector(), report=say)


def say(*words):
    """One write per line, also where output is not buffered."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
