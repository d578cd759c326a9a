"""What each way of drawing costs, as ratios: evaluations of the UNet, time and peak memory, in every number type.

The toy world draws one frame with two characters, portraits of one, and four frames together. All ways take turns in
one run, so their ratios can be compared. On a CPU the time is that of the process on its processors, with one thread,
so that what else the machine does counts as little as can be; and half precision, which most processors lack, gets a
schedule of five steps.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.guidance import OWN, SHARED, TEMPLATES
from ...core.identity import Identity
from ...core.layout import Layout
from ...core.redenoise import ProgressiveMasks, scaled_kernel, to_latent_grid
from ...core.story import Frame
from ...headless.studio import Studio, open_studio
from ..evaluation.drawing_modes import DRAWING_MODES, OFF, ON, draw_story
from ..evaluation.fewer_evaluations import BATCH, REGION, TOLERANCE, WAYS
from ..evaluation.identitystory import evaluation_settings
from ..evaluation.markdown import table
from ..evaluation.stories import ToyStory, make_story
from ..evaluation.variants import counted_evaluations, silent
from ..toyworld.world import draw, portrait_plan
from .attention import peak_bytes

DTYPES = ("float32", "bfloat16", "float16")
SEED, PORTRAITS = 7, 4
LABELS = {
    OWN: "two passes, as in the paper",
    SHARED: "… one unconditional for all characters of a frame",
    TEMPLATES: "… the template's unconditional",
    REGION: "… a region around each mask",
    "8 steps": "… 8 steps",
    "4 steps": "… 4 steps",
    "1 character": "… one character in place of two",
    "64": "portraits of one character: 64",
    "settled": f"… until {BATCH} more move the identity by less than {TOLERANCE}",
    OFF: "four frames, each by itself",
    ON: "… with AMSA",
}


@dataclass(frozen=True)
class Measured:
    """What one way came to.

    Args:
        evaluations: Samples that the UNet was given.
        seconds: The median of the rounds.
        peak: The most bytes held at once beyond what was there before, in two steps of the same.
        kept: Whether every cell that no mask covers is the template's bit for bit; None where there is no template.
    """

    evaluations: int
    seconds: float
    peak: int
    kept: bool | None = None


@dataclass(frozen=True)
class Way:
    """One way of drawing.

    Args:
        studio: Counts and draws.
        work: Draws all of it.
        short: Draws two steps of it, for the memory.
        kept: Whether the background is the template's; called with what `work` gave.
    """

    studio: Studio
    work: Callable[[], Tensor]
    short: Callable[[], Tensor]
    kept: Callable[[Tensor], bool] | None = None


def ways_of(device: str, dtype: str, with_portraits: bool) -> dict[str, Way]:
    """All ways by the keys of `LABELS`."""
    few = {"steps": 5, "start": 1} if is_slow(device, dtype) else {}
    studio = open_studio(evaluation_settings(device=device, dtype=dtype, **few), device)
    toy = next(story for story in map(make_story, range(100)) if len(story.people) == 2)
    identities = known_identities(studio, toy)
    ways = {}
    for name in (OWN, SHARED, TEMPLATES, REGION, *(() if few else ("8 steps", "4 steps"))):
        ways[name] = two_passes(with_settings(studio, WAYS[name]), toy.story.frames[0], identities)
    ways["1 character"] = two_passes(studio, toy.story.frames[0], identities, 1)
    if with_portraits:
        ways |= {"64": portraits(studio, toy, {}), "settled": portraits(studio, toy, {"settled": TOLERANCE})}
    for mode in DRAWING_MODES:
        if mode.name in (OFF, ON):
            ways[mode.name] = together(studio, toy, mode)
    return ways


def is_slow(device: str, dtype: str) -> bool:
    """Whether a number type has no instructions of its own on a device."""
    return device == "cpu" and dtype != "float32"


def with_settings(studio: Studio, changes: Mapping[str, Any]) -> Studio:
    return replace(studio, settings=replace(studio.settings, **changes))


def known_identities(studio: Studio, toy: ToyStory) -> dict[str, Identity]:
    """The mean over drawn portraits of each person, which needs no UNet."""
    found = {}
    for character, person in zip(toy.story.characters, toy.people, strict=True):
        random = np.random.default_rng(SEED)
        drawn = np.stack([draw(portrait_plan(person), random).image for _ in range(PORTRAITS)])
        embedding = studio.photomaker.embed(torch.from_numpy(drawn).float() / 255).mean(dim=0)
        found[character.name] = studio.identity(character, embedding, {})
    return found


def halves(studio: Studio, frame: Frame, count: int) -> Layout:
    """The frame's first characters, each in a box in one half of the picture."""
    height, width = studio.settings.height, studio.settings.width
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for place, mask in enumerate(masks):
        left = place * width // 2
        mask[height // 4 : height, left + width // 8 : left + 3 * width // 8] = True
    return Layout([each.name for each in frame.cast[:count]], masks, frame.label)


def two_passes(studio: Studio, frame: Frame, identities: Mapping[str, Identity], count: int = 2) -> Way:
    """A template and its second pass."""
    layout = halves(studio, frame, count)

    def drawn(studio: Studio) -> Tensor:
        cache = studio.sample_frame(frame, SEED, silent)
        return torch.stack([cache.final, studio.put_in(frame, cache, layout, identities, silent)])

    def kept(latents: Tensor) -> bool:
        settings = studio.settings
        kernel = scaled_kernel(settings.max_kernel, *layout.size)
        schedule = ProgressiveMasks(layout.masks, settings.steps, settings.start, kernel)
        height, width = latents.shape[-2:]
        covered = to_latent_grid(schedule.at(settings.steps - 1), height, width).any(dim=0)[0]
        return torch.equal(latents[0][..., ~covered], latents[1][..., ~covered]) and bool(latents.isfinite().all())

    short = with_settings(studio, {"steps": 2, "start": 1})
    return Way(studio, lambda: drawn(studio), lambda: drawn(short), kept)


def portraits(studio: Studio, toy: ToyStory, changes: Mapping[str, Any]) -> Way:
    """An identity from text alone."""
    character, batch = toy.story.characters[0], {"portrait_batch": BATCH}

    def found(studio: Studio) -> Tensor:
        return studio.discover(character, SEED, lambda pictures: None, silent)[0].embedding

    used = with_settings(studio, {**batch, **changes})
    few = {**batch, "portraits": BATCH, "portrait_steps": 2, "rank": 2, "rounds": 1}
    short = with_settings(studio, few)
    return Way(used, lambda: found(used), lambda: found(short))


def together(studio: Studio, toy: ToyStory, mode: Any) -> Way:
    """The story's frames as one batch."""
    short = with_settings(studio, {"steps": 2, "start": 1})
    return Way(
        studio,
        lambda: torch.stack(draw_story(studio, toy.story, mode, SEED).pictures),
        lambda: torch.stack(draw_story(short, toy.story, mode, SEED).pictures),
    )


def seconds(work: Callable[[], Tensor], device: str) -> tuple[float, Tensor]:
    """The time that the work takes, and what it gives."""
    if device == "cpu":
        start = time.process_time()
        result = work()
        return time.process_time() - start, result
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start, result


def measure(ways: Mapping[str, Way], device: str, rounds: int) -> dict[str, Measured]:
    """Run all ways in turns."""
    counts, peaks, kept = {}, {}, dict[str, bool | None]()
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for name, way in ways.items():
        peaks[name] = peak_bytes(way.short, device)  # warms up, too
    for _ in range(rounds):
        for name, way in ways.items():
            with counted_evaluations(way.studio) as evaluations:
                took, result = seconds(way.work, device)
            counts[name] = sum(evaluations)
            taken[name].append(took)
            kept[name] = None if way.kept is None else way.kept(result)
    return {name: Measured(counts[name], statistics.median(taken[name]), peaks[name], kept[name]) for name in ways}


def as_table(measured: Mapping[str, Measured], title: str) -> str:
    """A row per way; ratios are to the first row of its group."""
    lines, first = [], next(iter(measured.values()))
    for name, each in measured.items():
        if not LABELS[name].startswith("…"):
            first = each
        lines.append(
            (
                LABELS[name],
                f"{each.evaluations:,}",
                _ratio(each.evaluations, first.evaluations),
                f"{each.seconds:.2f}",
                _ratio(each.seconds, first.seconds),
                f"{each.peak / 2**20:.1f}",
                _ratio(each.peak, first.peak),
                {None: "", True: "the same bits", False: "**changed**"}[each.kept],
            )
        )
    titles = (f"**{title}**", "evaluations", "ratio", "seconds", "ratio", "peak, MiB", "ratio", "background")
    return table(titles, lines)


def _ratio(value: float | int, other: float | int) -> str:
    return f"{value / other:.2f}" if other else ""


def tables(device: str, rounds: int, dtypes: Iterable[str] = DTYPES) -> str:
    """The tables of all number types, as Markdown; portraits in the first type alone."""
    if device == "cpu":
        torch.set_num_threads(1)
    made = []
    for place, dtype in enumerate(dtypes):
        ways = ways_of(device, dtype, with_portraits=place == 0)
        title = f"{dtype}, {device}" + (", 5 steps" if is_slow(device, dtype) else "")
        made.append(as_table(measure(ways, device, rounds), title))
    return "\n\n".join(made)
