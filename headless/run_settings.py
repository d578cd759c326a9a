"""Everything a run needs to know, checked before anything is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from ..core.identity import largest_usable_rank
from .option_values import DETECTORS, DTYPES, SAMPLERS, SCHEDULES, TOYWORLD
from .run_files import mark_of
from .toyworld_files import READ_BY, folder_of, is_toyworld

_FILES = ("checkpoint", "photomaker", "config", "grounding_dino", "sam", "bert", "masks")
_PLACES = (*_FILES, "detector", "loras", "identities")
_UNRECORDED = ("on_missing",)  # a frame that is finished under one choice is the same under the other

TOYWORLD_SETTINGS: Mapping[str, Any] = {
    "checkpoint": TOYWORLD,
    "photomaker": TOYWORLD,
    "detector": TOYWORLD,
    "width": 64,
    "height": 64,
    "cfg": 4.0,
    "scheduler": "simple",
    "portrait_side": 64,
    "portrait_batch": 32,
    "portrait_steps": 20,
    "portrait_cfg": 4.0,
    "portrait_negative": "",
    "rank": 3,
    "box_threshold": 0.01,
    "text_threshold": 0.01,
}
"""What suits the toy world where it differs from the defaults.

The toy detector's scores are shares that add up to 1 over all words, and boys look like men: whoever is most like the
word is taken, be the detector ever so unsure. Ten directions hold nearly all that the toy encoder says of portraits, so
that a filter of rank 10 has nothing to go by (docs/evidence.md).
"""


def _setting(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class RunSettings:
    """What a story is made with; each field says what it means, and the command line has an option for each.

    Steps count up from the noisiest. Lengths "at 1024" are in pixels of a 1024-pixel picture and scale with its side.

    Raises:
        ValueError: If a setting is out of range.
        FileNotFoundError: If a file or folder is not there.
    """

    checkpoint: str = field(metadata={"meaning": 'A .safetensors or .ckpt file, a diffusers folder, or "toyworld".'})
    photomaker: str = field(metadata={"meaning": 'A PhotoMaker v1 file, or "toyworld".'})
    detector: str = _setting("none", f"Who finds the characters: {', '.join(DETECTORS)}.")
    grounding_dino: str = _setting("", "For grounded-sam: GroundingDINO's weights.")
    sam: str = _setting("", "For grounded-sam: SAM's weights.")
    bert: str = _setting("", "For grounded-sam: a folder with the tokenizer of bert-base-uncased.")
    config: str = _setting("", "For a checkpoint in a single file: a diffusers folder of the same family.")
    loras: tuple[tuple[str, int | float], ...] = _setting((), "A LoRA for both passes, FILE or FILE:STRENGTH.")
    identities: tuple[tuple[str, str], ...] = _setting((), "A saved identity to use, NAME=FILE.")
    masks: str = _setting("", "A folder with an earlier run's masks, to use in place of a detector.")
    width: int = _setting(1024, "Of the frames, in pixels.")
    height: int = _setting(1024, "Of the frames, in pixels.")
    seed: int = _setting(0, "Frame n starts from this plus n - 1 unless the story gives it a seed; portraits count on.")
    steps: int = _setting(50, "Sampling steps (the paper's T).")
    start: int = _setting(10, "The step at which re-denoising begins (10 of 50 is the paper's t' = 40).")
    cfg: int | float = _setting(7.0, "Guidance scale of both passes.")
    sampler: str = _setting("euler", f"One of {', '.join(SAMPLERS)}.")
    scheduler: str = _setting("normal", f"One of {', '.join(SCHEDULES)}.")
    max_kernel: int | float = _setting(50, "How far masks have grown at the last step, in pixels at 1024.")
    dilate: int | float = _setting(10, "How far masks are grown when they are made, in pixels at 1024.")
    soft_edge: bool = _setting(False, "Blend mask edges by coverage in place of selecting whole latent cells.")
    box_threshold: int | float = _setting(0.3, "Least score of a box.")
    text_threshold: int | float = _setting(0.25, "Least score of the word itself.")
    on_missing: str = _setting("error", "A character who is not found: error, or skip to leave them as drawn.")
    portraits: int = _setting(64, "Portraits per character (the paper's m).")
    portrait_side: int = _setting(1024, "Their width and height in pixels.")
    portrait_batch: int = _setting(4, "Portraits drawn at a time; lower it if memory runs out.")
    portrait_steps: int = _setting(50, "Their sampling steps.")
    portrait_cfg: int | float = _setting(5.0, "Their guidance scale.")
    portrait_template: str = _setting("a close-up photo of {character}", "Their prompt, with {character} in it.")
    portrait_negative: str = _setting("3d, cartoon, anime, sketches, illustration, painting", "Their negative prompt.")
    rank: int = _setting(10, "Directions that count as the identity (the paper's k).")
    keep_ratio: int | float = _setting(0.6, "Share of portraits kept per round (the paper's r).")
    rounds: int = _setting(3, "Rounds of the discovery (the paper's p); 0 takes the mean of all portraits.")
    device: str = _setting("cpu", 'Where the models run: "cpu" or "cuda".')
    dtype: str = _setting("float32", f"Of the UNet and the text encoders: {', '.join(DTYPES)}.")
    threads: int = _setting(1, "CPU threads per process; the last bits of a result depend on their number.")

    def __post_init__(self) -> None:
        self._check_ranges()
        self._check_choices()
        self._check_discovery()
        self._check_files()

    def _check_ranges(self) -> None:
        least = {"width": 8, "height": 8, "portrait_side": 8, "seed": 0, "start": 0, "max_kernel": 0, "dilate": 0}
        least |= dict.fromkeys(("steps", "portrait_steps", "portraits", "portrait_batch", "threads"), 1)
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {bound} or more.")
        for name in ("width", "height", "portrait_side"):
            if getattr(self, name) % 8:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be a multiple of 8.")
        for name in ("box_threshold", "text_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be from 0 to 1.")
        if self.start >= self.steps:
            raise ValueError(f"start is {self.start}, but there are {self.steps} steps: use 0 to {self.steps - 1}.")
        if max(self.steps, self.portrait_steps) > 1000:
            raise ValueError(f"{max(self.steps, self.portrait_steps)} steps are more than the 1000 there are.")
        if self.seed >= 2**64:
            raise ValueError(f"seed is {self.seed}; it must be below 2^64.")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f'device is "{self.device}", but torch finds no CUDA device here; use "cpu".')

    def _check_choices(self) -> None:
        choices = {
            "sampler": SAMPLERS,
            "scheduler": SCHEDULES,
            "detector": DETECTORS,
            "on_missing": ("error", "skip"),
            "dtype": DTYPES,
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f'{name} is "{getattr(self, name)}"; it must be one of {", ".join(known)}.')
        if "{character}" not in self.portrait_template:
            raise ValueError(
                f'portrait_template is "{self.portrait_template}"; it needs {{character}} for the description to go in.'
            )

    def _check_discovery(self) -> None:
        if not 0 < self.keep_ratio <= 1:
            raise ValueError(f"keep_ratio is {self.keep_ratio}; it must be above 0 and at most 1.")
        if self.rounds < 0 or self.rank < 1:
            raise ValueError(f"rounds is {self.rounds} and rank {self.rank}; they must be at least 0 and 1.")
        largest = largest_usable_rank(self.portraits, self.portraits, self.keep_ratio, self.rounds)
        if self.rounds and self.rank > largest:
            raise ValueError(
                f"rank {self.rank} is too large for {self.portraits} portraits with keep_ratio {self.keep_ratio} and "
                f"{self.rounds} rounds: at most {largest}. Lower the rank, or draw more portraits."
            )

    def _check_files(self) -> None:
        if self.detector == "grounded-sam" and not self.masks:
            missing = [name for name in ("grounding_dino", "sam", "bert") if not getattr(self, name)]
            if missing:
                raise ValueError(f"The detector grounded-sam needs {' and '.join(missing)} too: give their paths.")
        for name in _FILES:
            path = getattr(self, name)
            if path and path != TOYWORLD and not Path(path).exists():
                raise FileNotFoundError(f'{name}: there is no "{path}".')
        for what, pairs in (("LoRA", self.loras), ("identity", [(path, name) for name, path in self.identities])):
            for path, _ in pairs:
                if not Path(path).is_file():
                    raise FileNotFoundError(f'There is no {what} file "{path}".')

    def record(self) -> dict[str, Any]:
        """What the bytes of a run depend on, for its manifest: files by name and content, not by where they lie."""
        record: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name in READ_BY and (value == TOYWORLD or is_toyworld(Path(value))):
                content = mark_of(folder_of(self.checkpoint), READ_BY[each.name])
                record[each.name] = {"name": TOYWORLD, "content": content}
            elif each.name in _FILES and value:
                record[each.name] = _record_file(value)
            elif each.name == "loras":
                record[each.name] = [{**_record_file(path), "strength": strength} for path, strength in value]
            elif each.name == "identities":
                record[each.name] = {name: _record_file(path) for name, path in value}
            elif each.name not in _UNRECORDED:
                record[each.name] = value
        return record

    def places(self) -> dict[str, Any]:
        """Where the files of the settings lie, which `record` leaves out."""
        return {name: getattr(self, name) for name in _PLACES}


def settings_of(manifest: Mapping[str, Any], **changes: Any) -> RunSettings:
    """The settings a run's manifest describes; `changes` replace single ones."""
    known = {each.name for each in fields(RunSettings)}
    plain = {key: value for key, value in manifest["settings"].items() if key in known - set(_PLACES)}
    places = dict(manifest["places"])
    for pairs in ("loras", "identities"):
        places[pairs] = tuple((first, second) for first, second in places[pairs])
    return RunSettings(**{**plain, **places, **changes})


def _record_file(path: str) -> dict[str, Any]:
    return {"name": Path(path).name, "content": mark_of(Path(path))}


def toyworld_settings(**changes: Any) -> RunSettings:
    """Settings that suit the toy world; `changes` replace single ones."""
    return RunSettings(**{**TOYWORLD_SETTINGS, **changes})
