"""The numbers of one story of the toy world, drawn with what training made (Storynizor, tables 4 and 5)."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.attention_hooks import unchanged
from ...core.frame_sharing import Sharing
from ...core.injector import Injector, ReferenceFeatures
from ...core.layout import Layout
from ...core.scores.cosines import mean_cosine_between
from ...core.scores.statistics import mean_of_known
from ...core.shapes import Float
from ...core.shuffle import MODES
from ...core.toyworld.sizes import TOY_WORLD
from ...core.toyworld.vocabulary import PLACES, POSES
from ...headless.option_values import TOYWORLD
from ...headless.reference_faces import FeatureReader, load_reader
from ...headless.reference_injection import inject_story, load_injector
from ...headless.run_files import mark_of
from ...headless.studio import Studio, open_studio
from ..toyworld.people import Person
from ..toyworld.plan import Plan
from ..toyworld.probe import Probe
from ..toyworld.weight_files import weight_file
from ..toyworld.world import draw
from .auto_masks import layout_of, measure_maps
from .drawing_modes import OFF, ON, DrawingMode, DrawnStory, draw_story
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
    faces_of,
    look_at_all,
    open_instruments,
)
from .scores import varied_share
from .stories import FRAMES, ToyStory, make_story
from .storynizor import SeenBy, masks_in, measure_drawings, measure_frames, read_of
from .variants import counted_evaluations

NO_LORA, WITH, WITHOUT = "", "synchronizer", "synchronizer_without_mask_loss"
LORAS = {NO_LORA: "base", WITHOUT: "without mask loss", WITH: "with mask loss"}
"""Files of synchronizers, without their ending, and what they are called in the numbers."""
INJECTOR = "injector"
"""The file of the injector that was trained with shuffled references."""
INJECTORS = {mode: INJECTOR if mode == MODES[0] else f"{INJECTOR}_{mode}" for mode in MODES}
"""Files of injectors, by how references were assigned in their training; where one is missing, `INJECTOR` draws."""
ON_WITHOUT, ON_WITH, OFF_WITH = "on, without mask loss", "on, with mask loss", "off, with mask loss"

DRAWING_MODES = (
    DrawingMode(OFF, Sharing(strength=0.0)),
    DrawingMode(ON, Sharing()),
    DrawingMode(ON_WITHOUT, Sharing(), WITHOUT),
    DrawingMode(ON_WITH, Sharing(), WITH),
    DrawingMode(OFF_WITH, Sharing(strength=0.0), WITH),
    *(DrawingMode(mode, Sharing(), WITH, mode) for mode in MODES),
)
"""Those that show references come after the one that is the same without."""
REFERENCES = "references"
"""The reference pictures, on the figure."""
_SEED = 2  # together with a story's number; `toyworld.drawn_scenes` has 1


@dataclass(frozen=True)
class Trained:
    """What training made.

    Args:
        studios: By the LoRA that is merged into their UNet.
        injectors: Adapters, by how references were assigned in their training; one at least, for shuffled references.
        reader: Reads reference pictures for the adapter.
    """

    studios: Mapping[str, Studio]
    injectors: Mapping[str, Injector]
    reader: FeatureReader

    def trained_for(self, mode: str) -> str:
        """How references were assigned in the training of the injector that draws a mode."""
        return mode if mode in self.injectors else MODES[0]


@dataclass(frozen=True)
class References:
    """Pictures of one person, and what the injector reads of them.

    Args:
        pictures: One per frame.
        features: The features of all the pictures.
        faces: Unit vectors, by the recogniser.
    """

    pictures: list[Picture]
    features: ReferenceFeatures
    faces: Float[Tensor, "r d"]


def files_in(weights: Path) -> dict[str, Path]:
    """What training made, by name; of the injectors, the one for shuffled references and any others.

    Raises:
        FileNotFoundError: If a file is not there.
    """
    wanted = (WITH, WITHOUT, INJECTOR)
    files = {name: weight_file(name, weights) for name in (*wanted, *INJECTORS.values())}
    files = {name: path for name, path in files.items() if name in wanted or path.is_file()}
    missing = [path.name for path in files.values() if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{weights} lacks {', '.join(missing)}: train them (story-identity train-synchronizer, train-injector) and "
            "put them there under these names."
        )
    return files


def made_with(weights: Path) -> dict[str, Any]:
    """What the numbers depend on besides the settings: the drawing modes, and the weights' content."""
    return {
        "drawing_modes": [asdict(mode) for mode in DRAWING_MODES],
        "trained": {name: mark_of(path) for name, path in files_in(weights).items()},
    }


def open_measure(weights: Path) -> Callable[[int], tuple[Row, dict[str, list[Picture]]]]:
    """`measure_story` with the shipped toy world and the trained weights in a folder."""
    instruments = open_instruments(evaluation_settings())
    trained = open_trained(instruments.studio, weights, load_reader(TOYWORLD, TOYWORLD))
    return partial(measure_story, instruments, trained)


def open_trained(studio: Studio, weights: Path, reader: FeatureReader) -> Trained:
    """Load what training made; every LoRA is merged into a UNet of its own, and the given studio stays as it is."""
    files, settings = files_in(weights), studio.settings
    studios = {NO_LORA: studio}
    for name in (WITHOUT, WITH):
        merged = replace(settings, loras=((str(files[name]), 1.0),))
        studios[name] = open_studio(merged, settings.device, studio.detector)
    injectors = {mode: load_injector(files[name], studio.pipe) for mode, name in INJECTORS.items() if name in files}
    return Trained(studios, injectors, reader)


def measure_story(instruments: Instruments, trained: Trained, number: int) -> tuple[Row, dict[str, list[Picture]]]:
    """Draw a story in every mode and measure it.

    Returns:
        The numbers, JSON's own types only, None where there is nothing to measure; and the pictures, by the mode they
        were drawn in, one per frame, with the reference pictures.
    """
    toy, first_frame = make_story(number), number * SEEDS_PER_STORY + FIRST_FRAME
    references = make_references(trained.reader, toy)
    with ExitStack() as stack:
        counts = [stack.enter_context(counted_evaluations(studio)) for studio in trained.studios.values()]
        drawn = draw_modes(trained, toy, references, first_frame)
        pictures = {name: each.pictures for name, each in drawn.items()} | drawings(toy)
        seen = {name: look_at_all(instruments, toy, images) for name, images in pictures.items()}
        last = instruments.studio.settings.steps
        row = {
            **measure_frames(instruments, toy, pictures, seen),
            "poses": {
                mode: measure_poses(instruments.probe, toy, images, seen[mode]) for mode, images in pictures.items()
            },
            "trained_for": {mode: trained.trained_for(mode) for mode in MODES},
            "to_references": measure_to_references(toy, references, seen),
            "drawn_masks": {
                LORAS[lora]: measure_drawings(studio, toy, pictures[DRAWN], seen[DRAWN], first_frame)
                for lora, studio in trained.studios.items()
            },
            "running_masks": {
                name: measure_maps(each.maps[last], toy.story, masks_in(seen[name])) for name, each in drawn.items()
            },
        }
    shown = _shown_references(list(references.values()))
    return {**row, "evaluations": sum(map(sum, counts))}, {REFERENCES: shown, **pictures}


def draw_modes(
    trained: Trained, toy: ToyStory, references: Mapping[str, References], first_seed: int
) -> dict[str, DrawnStory]:
    """A story, drawn in every mode.

    A face acts everywhere where there is one person, as in training; of two people each acts where attention sees them
    after the last step of the same drawing without references.
    """
    story, features = toy.story, {name: own.features for name, own in references.items()}
    drawn: dict[str, DrawnStory] = {}
    for mode in DRAWING_MODES:
        studio, hook = trained.studios[mode.lora], unchanged
        last = studio.settings.steps
        if mode.references:
            layouts = layouts_of(toy, drawn[ON_WITH].maps[last]) if len(toy.people) > 1 else ()
            injector = trained.injectors[trained.trained_for(mode.references)]
            hook = inject_story(injector, story, features, mode.references, seed=first_seed, layouts=layouts)
        drawn[mode.name] = draw_story(studio, story, mode, first_seed, (last,), hook)
    return drawn


def layouts_of(toy: ToyStory, maps: Float[Tensor, "n s gh gw"]) -> list[Layout]:
    """The layout of every frame, from attention."""
    names, side = [character.name for character in toy.story.characters], TOY_WORLD.picture_side
    return [
        layout_of(frame, dict(zip(names, own, strict=True)), (side, side))
        for frame, own in zip(toy.story.frames, maps, strict=True)
    ]


def make_references(reader: FeatureReader, toy: ToyStory) -> dict[str, References]:
    """For each of the story's characters, as many drawings of the person that they are as there are frames."""
    found = {}
    for place, (character, person) in enumerate(zip(toy.story.characters, toy.people, strict=True)):
        random = np.random.default_rng([toy.number, _SEED, place])
        poses = tuple(plan.poses[place] for plan in toy.plans)
        plans = reference_plans(person, poses, tuple(plan.place for plan in toy.plans), random)
        pictures = [torch.tensor(draw(plan, random).image).float() / 255 for plan in plans]
        features, seen = reader.read(pictures, [None] * len(pictures))
        if not all(seen):
            raise ValueError(f"Story {toy.number + 1}: no face was found in a reference picture of {character.name}.")
        assert features.face is not None
        found[character.name] = References(pictures, features, features.face)
    return found


def reference_plans(
    person: Person, poses: Sequence[str], places: Sequence[str], random: np.random.Generator
) -> list[Plan]:
    """Scenes of somebody alone, at places where no frame is and, as long as there are any, in poses of no frame.

    Where the frames have all poses, the references have the one that fewest of them have.
    """
    others = [pose for pose in POSES if pose not in poses] or [min(POSES, key=list(poses).count)]
    elsewhere = [place for place in PLACES if place not in places]
    return [
        Plan(
            (person,),
            (str(random.choice(others)),),
            str(random.choice(elsewhere)),
            names_clothes=(False,),
            names_hair=(True,),
        )
        for _ in range(FRAMES)
    ]


def _shown_references(people: Sequence[References]) -> list[Picture]:
    """As many reference pictures as there are frames, of the characters in turn."""
    return [people[frame % len(people)].pictures[frame] for frame in range(FRAMES)]


def measure_poses(
    probe: Probe, toy: ToyStory, pictures: Sequence[Picture], seen: Sequence[Mapping[str, Seen]]
) -> float | None:
    """In how many pairs of frames that ask for two poses the probe reads two; the mean over the people."""
    shares = []
    for place, character in enumerate(toy.story.characters):
        read = read_of(probe, character.name, "pose", pictures, seen)
        shares.append(varied_share(read, [plan.poses[place] for plan in toy.plans]))
    return mean_of_known(shares)


def measure_to_references(toy: ToyStory, references: Mapping[str, References], seen: SeenBy) -> dict[str, float | None]:
    """Face-Sim(R): the mean cosine of faces in the frames with those of the references; the mean over the people."""
    people = [references[character.name].faces for character in toy.story.characters]
    return {
        mode: mean_of_known([_likeness(own, faces) for own, faces in zip(faces_of(toy, frames), people, strict=True)])
        for mode, frames in seen.items()
    }


def _likeness(faces: Sequence[Float[Tensor, " d"] | None], others: Float[Tensor, "r d"]) -> float | None:
    known = [face for face in faces if face is not None]
    return mean_cosine_between(torch.stack(known), others) if known else None
