"""A short story, settings for it in the stand-in toy world, and a detector that needs no training."""

import dataclasses

import torch
from story_identity.core.detectors import Detections
from story_identity.core.story import Story
from story_identity.headless.run_settings import RunSettings, toyworld_settings

STORY = {
    "characters": [
        {"name": "Mira", "word": "woman", "description": "a woman with red hair"},
        {"name": "Tom", "word": "boy", "description": "a boy with black hair"},
    ],
    "frames": [
        "Mira on a beach",
        {"prompt": "Mira and Tom waving in a forest", "seed": 5},
        "a beach at night",
        "Tom in the snow",
    ],
}
PLACES = {"woman": 4, "boy": 36}


def story(frames=None):
    return Story.parse({**STORY, "frames": STORY["frames"] if frames is None else frames})


def settings(folder, **changes):
    quick = {"portraits": 5, "portrait_batch": 3, "portrait_steps": 2, "rank": 1, "rounds": 2, "steps": 4, "start": 1}
    return toyworld_settings(**{"checkpoint": str(folder), **quick, **changes})


class PlaceDetector:
    """Finds a word where the test put it; words of `blind` it finds nowhere."""

    def __init__(self, blind=()):
        self.blind = blind

    def find(self, image, word):
        if word in self.blind:
            return Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0))
        left = float(PLACES[word])
        box = torch.tensor([[left, 10.0, left + 24.0, 56.0]])
        return Detections(box, torch.tensor([0.9]), torch.tensor([0.8]))

    def segment(self, image, boxes):
        masks = torch.zeros(len(boxes), *image.shape[:2], dtype=torch.bool)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
            mask[top:bottom, left:right] = True
        return masks


def options_of(chosen):
    """The command line of settings, for those that differ from the defaults."""
    words = []
    for each in dataclasses.fields(RunSettings):
        value = getattr(chosen, each.name)
        flag = f"--{each.name.replace('_', '-')}"
        if value != each.default and not isinstance(value, tuple):
            words += [flag] if value is True else [flag, str(value)]
    return words


def contents(folder):
    """Every file of a run by its path, but for the lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(files)}
