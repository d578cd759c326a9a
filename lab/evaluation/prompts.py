"""The frame's prompt or the character's description inside a mask: both measured on the same templates and identities.

IdentityStory's equation 6 conditions the identity generator on the character's description.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from ...core.identity import Identity
from ...core.scores.statistics import mean_of_known
from ...core.story import CHARACTER, FRAME, PROMPTS
from ..toyworld.plan import Plan
from ..toyworld.probe import PERSON, SCENE, Probe, answers_of_person
from .identitystory import (
    DRAWN,
    FIRST_FRAME,
    SEEDS_PER_STORY,
    Instruments,
    Picture,
    Row,
    Seen,
    drawings,
    evaluation_settings,
    look_at_all,
    measure_agreement,
    measure_faces,
    open_instruments,
)
from .markdown import Rows, about, at, cell, difference, table
from .stories import ToyStory, make_story
from .variants import TEMPLATE, counted_evaluations, make_identities, make_portraits, silent

DRAWINGS = (TEMPLATE, *PROMPTS)
_LABELS = {
    TEMPLATE: "the template",
    FRAME: "re-denoised, the frame's prompt",
    CHARACTER: "re-denoised, the character's description",
    DRAWN: "*drawn, one person throughout*",
}
_SWAPPED = ("hair", "clothes", "word", "pose")
"""What one person may get from the words about the other."""


def open_measure() -> Callable[[int], tuple[Row, dict[str, list[Picture]]]]:
    """`measure_story` with the shipped weights."""
    return partial(measure_story, open_instruments(evaluation_settings()))


def measure_story(instruments: Instruments, number: int) -> tuple[Row, dict[str, list[Picture]]]:
    """Draw a story's frames with either prompt and measure them.

    Returns:
        The numbers, JSON's own types only, None where there is nothing to measure; and the pictures by what conditioned
        the second pass, one per frame.
    """
    toy, studio = make_story(number), instruments.studio
    with counted_evaluations(studio) as counts:
        pictures = draw_story(instruments, toy)
    pictures |= drawings(toy)
    seen = {name: look_at_all(instruments, toy, images) for name, images in pictures.items()}
    row = {
        "story": number,
        "people": [character.description for character in toy.story.characters],
        "prompts": [frame.prompt for frame in toy.story.frames],
        "evaluations": sum(counts),
        "faces_wanted": len(toy.people) * len(toy.plans),
        **measure_faces(toy, seen),
        "agreement": {
            name: measure_agreement(instruments.probe, toy.plans, images, seen[name], toy)
            for name, images in pictures.items()
        },
        "swapped": {
            name: measure_swapped(instruments.probe, toy.plans, images, seen[name], toy)
            for name, images in pictures.items()
        },
    }
    return row, pictures


def draw_story(instruments: Instruments, toy: ToyStory) -> dict[str, list[Picture]]:
    """The story's frames: the templates, and re-denoised from each of `PROMPTS`."""
    studio, first_seed = instruments.studio, toy.number * SEEDS_PER_STORY
    identities: dict[str, Identity] = {}
    for place, (character, person) in enumerate(zip(toy.story.characters, toy.people, strict=True)):
        portraits = make_portraits(studio, character, person, first_seed + place * studio.settings.portraits)
        identities[character.name] = make_identities(studio, character, portraits)[0]["discovered"]
    studios = {prompt: replace(studio, settings=replace(studio.settings, prompt=prompt)) for prompt in PROMPTS}
    pictures: dict[str, list[Picture]] = {name: [] for name in DRAWINGS}
    for frame in toy.story.frames:
        cache = studio.sample_frame(frame, first_seed + FIRST_FRAME + frame.index, silent)
        template = studio.picture(cache.final)
        layout = studio.find(frame, template, None)
        pictures[TEMPLATE].append(template)
        for prompt, chosen in studios.items():
            latent = chosen.put_in(frame, cache, layout, identities, silent)
            pictures[prompt].append(chosen.picture(latent))
    return pictures


def measure_swapped(
    probe: Probe, plans: Sequence[Plan], images: Sequence[Picture], seen: Sequence[Mapping[str, Seen]], toy: ToyStory
) -> dict[str, float | None]:
    """How often one of two people shows what the caption says of the other, of the attributes in which they differ.

    Clothes count only where the caption names the other's. None for stories of one person.
    """
    swapped: dict[str, list[float]] = {name: [] for name in _SWAPPED}
    for plan, image, found in zip(plans, images, seen, strict=True):
        if len(plan.people) != 2:
            continue
        wanted = [answers_of_person(person, pose) for person, pose in zip(plan.people, plan.poses, strict=True)]
        for place, character in enumerate(toy.story.characters):
            one = found.get(character.name)
            if one is None:
                continue
            read, own, other = probe.read_person(image, one.mask), wanted[place], wanted[1 - place]
            for name in _SWAPPED:
                if own[name] != other[name] and (name != "clothes" or plan.names_clothes[1 - place]):
                    swapped[name].append(float(read[name] == other[name]))
    shares = {name: mean_of_known(values) for name, values in swapped.items()}
    return shares | {"any": mean_of_known([value for values in swapped.values() for value in values])}


def make_tables(rows: Rows) -> str:
    """All tables, as Markdown."""
    return "\n\n".join(part(rows) for part in (about, _face_table, _agreement_table, _swapped_table))


def _face_table(rows: Rows) -> str:
    lines = [(_LABELS[name], cell(rows, at("face_sim", name)), *_by_people(rows, name)) for name in _LABELS]
    both = at("face_sim", CHARACTER), at("face_sim", FRAME)
    lines.append((
        f"{_LABELS[CHARACTER]} − {_LABELS[FRAME]}",
        difference(rows, *both),
        *(difference(some, *both) for some in _divided(rows)),
    ))  # fmt: skip
    return table(("**Face-Sim**", "all stories", "one person", "two people"), lines)


def _by_people(rows: Rows, name: str) -> list[str]:
    return [cell(some, at("face_sim", name)) for some in _divided(rows)]


def _divided(rows: Rows) -> tuple[Rows, Rows]:
    """Stories of one person, and of two."""
    return [row for row in rows if len(row["people"]) == 1], [row for row in rows if len(row["people"]) == 2]


def _agreement_table(rows: Rows) -> str:
    names = ("scene", *SCENE, "person", *PERSON)
    return table(("**As the caption says, %**", *_titles()), [_line(rows, "agreement", name) for name in names])


def _swapped_table(rows: Rows) -> str:
    lines = [_line(rows, "swapped", name) for name in (*_SWAPPED, "any")]
    return table(("**As the caption says of the other person, %**", *_titles()), lines)


def _titles() -> tuple[str, ...]:
    return ("template", "frame's prompt", "description", "*drawn*", "description − frame's prompt")


def _line(rows: Rows, measure: str, name: str) -> tuple[str, ...]:
    cells = (cell(rows, at(measure, drawing, name), 100, 1) for drawing in (*DRAWINGS, DRAWN))
    both = at(measure, CHARACTER, name), at(measure, FRAME, name)
    return (name, *cells, difference(rows, *both, scale=100, digits=1))
