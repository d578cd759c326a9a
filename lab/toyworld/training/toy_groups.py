"""Groups of pictures of the same people, drawn as they are asked for."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from ....core.story import Story
from ....core.toyworld.vocabulary import CLASS_WORDS, PLACES
from ...training.groups import Group
from ..captions import describe
from ..people import sample_person
from ..world import Scene, draw, sample_plan


@dataclass(frozen=True)
class ToyGroups:
    """One or two people, of different class words, in as many places as there are pictures, all looks held in.

    Args:
        seed: The seed of everything that is drawn at random.
        frames: Pictures per group, at most 6.
        held_out: Draw people whose looks no network was trained on.
    """

    seed: int
    frames: int = 4
    held_out: bool = False

    def stream(self, first: int, process: int, processes: int) -> Iterator[Group]:
        number = first
        while True:
            yield self.draw(np.random.default_rng([self.seed, number * processes + process]))
            number += 1

    def draw(self, random: np.random.Generator) -> Group:
        words = [str(word) for word in random.permutation(CLASS_WORDS)[: 1 if random.random() < 0.6 else 2]]
        people = tuple(sample_person(random, held_out=self.held_out, word=word) for word in words)
        tells_clothes = tuple(bool(random.random() < 0.25) for _ in people)
        scenes = [
            draw(
                replace(
                    sample_plan(random, held_out=self.held_out, people=len(people)),
                    people=people,
                    place=place,
                    names_hair=(True,) * len(people),
                    names_clothes=tells_clothes,
                ),
                random,
            )
            for place in random.permutation(PLACES)[: self.frames].tolist()
        ]
        characters = [
            {"name": f"Person {number}", "word": person.word, "description": describe(person, clothes=clothes)}
            for number, (person, clothes) in enumerate(zip(people, tells_clothes, strict=True), start=1)
        ]
        return _group(Story.parse({"characters": characters, "frames": [scene.caption for scene in scenes]}), scenes)


def _group(story: Story, scenes: list[Scene]) -> Group:
    names = tuple(character.name for character in story.characters)
    words = [{each.character.name: each.identifying_words for each in frame.appearances} for frame in story.frames]
    return Group(
        names=names,
        pictures=torch.from_numpy(np.stack([scene.image for scene in scenes])).float() / 255,
        captions=tuple(frame.prompt for frame in story.frames),
        words=tuple(tuple(own.get(name, ()) for own in words) for name in names),
        masks=torch.from_numpy(np.stack([scene.masks for scene in scenes])),
    )
