"""Stories of the toy world, written in its own words: same number, same story."""

from dataclasses import dataclass, replace

import numpy as np

from ...core.story import Story
from ...core.toyworld.vocabulary import CLASS_WORDS, PLACES
from ..toyworld.captions import caption_of, describe
from ..toyworld.people import Person, sample_person
from ..toyworld.plan import Plan
from ..toyworld.world import sample_plan

FRAMES = 4
NAMES = ("Ada", "Ben")
TELLS_CLOTHES = 0.25
"""Share of the people whose description tells what they wear."""
_SEED = 61


@dataclass(frozen=True)
class ToyStory:
    """A story, and for every frame a plan that shows it with one and the same people who fit their descriptions.

    A frame's prompt is the caption of its plan: what the plan says of places, poses and things is what it asks for.
    """

    number: int
    story: Story
    plans: tuple[Plan, ...]

    @property
    def people(self) -> tuple[Person, ...]:
        """One for each of the story's characters; looks that no network was trained on."""
        return self.plans[0].people


def make_story(number: int) -> ToyStory:
    """The story of a number: every third has two people, of different class words; everybody is in every frame."""
    random = np.random.default_rng([_SEED, number])
    words = random.permutation(CLASS_WORDS)[: 2 if number % 3 == 2 else 1]
    people = tuple(sample_person(random, held_out=True, word=str(word)) for word in words)
    tells_clothes = tuple(bool(random.random() < TELLS_CLOTHES) for _ in people)
    plans = tuple(
        replace(
            sample_plan(random, held_out=True, people=len(people)),
            people=people,
            place=place,
            names_hair=(True,) * len(people),
            names_clothes=tells_clothes,
        )
        for place in random.permutation(PLACES)[:FRAMES].tolist()
    )
    characters = [
        {"name": name, "word": person.word, "description": describe(person, clothes=clothes)}
        for name, person, clothes in zip(NAMES, people, tells_clothes, strict=False)
    ]
    return ToyStory(
        number, Story.parse({"characters": characters, "frames": [caption_of(p, random) for p in plans]}), plans
    )


def with_others(plan: Plan, random: np.random.Generator) -> Plan:
    """The plan with other people of whom the caption would say the same."""
    others = []
    for person, clothes in zip(plan.people, plan.names_clothes, strict=True):
        said: dict[str, str | int] = {"word": person.word, "hair": person.hair}
        if clothes:
            said |= {"clothes": person.clothes, "garment": person.garment}
        others.append(sample_person(random, held_out=True, **said))
    return replace(plan, people=tuple(others))
