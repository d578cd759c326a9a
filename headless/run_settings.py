"""Everything a run needs to know, checked before anything is loaded."""

import os
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import Field as DataclassField
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, Strict, create_model

from ..core.guidance import GUIDANCE, OWN, SHARED
from ..core.identity import largest_usable_rank
from ..core.quoting import quote
from ..core.redenoise import first_step
from ..core.region import MARGIN
from ..core.story import FRAME, PROMPTS
from ..core.toyworld.sizes import TOY_WORLD
from .option_values import DETECTORS, DTYPES, SAMPLERS, SCHEDULES, TOYWORLD
from .run_files import mark_of
from .schema import Entry, Items, Number, Text, checked, is_encodable
from .together_settings import TogetherSettings, setting
from .toyworld_files import READ_BY, folder_read, is_toyworld

_FILES = ("checkpoint", "photomaker", "config", "grounding_dino", "sam", "bert", "masks")
_FILES += ("adapter", "image_encoder", "face_models")
_FOLDERS = ("config", "bert", "masks", "image_encoder", "face_models")
_KINDS: Mapping[str, str] = {name: "folder" if name in _FOLDERS else "file" for name in _FILES if name != "checkpoint"}
_PAIRS = ("loras", "identities", "references")
_PLACES = (*_FILES, "detector", *_PAIRS)
_UNRECORDED = ("on_missing",)  # a frame that is finished under one choice is the same under the other

_MEANT: Mapping[str, Any] = {
    "prompt": FRAME,
    "guidance": OWN,
    "region": False,
    "region_margin": MARGIN,
    "settled": 0,
}
"""What a manifest means that does not mention a setting: those of the first version still describe their runs."""

TOYWORLD_SETTINGS: Mapping[str, Any] = {
    "checkpoint": TOYWORLD,
    "photomaker": TOYWORLD,
    "detector": TOYWORLD,
    "width": TOY_WORLD.picture_side,
    "height": TOY_WORLD.picture_side,
    "cfg": 4.0,
    "scheduler": "simple",
    "portrait_side": TOY_WORLD.picture_side,
    "portrait_batch": 32,
    "portrait_steps": 20,
    "portrait_cfg": 4.0,
    "portrait_negative": "",
    "box_threshold": 0.01,
    "text_threshold": 0.01,
}
_TOYWORLD_FACES = {"image_encoder": TOYWORLD, "face_models": TOYWORLD}
"""What suits the toy world where it differs from the defaults.

The toy detector's scores are shares that add up to 1 over all words, and boys look like men: whoever is most like the
word is taken, be the detector ever so unsure.
"""


_LONGEST_PATH = 1000
_LORA_STRENGTHS = (-100, 100)


@dataclass(frozen=True)
class RunSettings(TogetherSettings):
    """What a story is made with; each field says what it means, and the command line has an option for each.

    Steps count up from the noisiest. Lengths "at 1024" are in pixels of a 1024-pixel picture and scale with its side.

    Raises:
        ValueError: If a setting is out of range.
        FileNotFoundError: If a file or folder is not there.
    """

    checkpoint: str = field(metadata={"meaning": 'A .safetensors or .ckpt file, a diffusers folder, or "toyworld".'})
    photomaker: str = setting("", 'A PhotoMaker file, version 1 or 2, or "toyworld"; not needed with --together.')
    detector: str = setting("none", f"Who finds the characters: {', '.join(DETECTORS)}.")
    grounding_dino: str = setting("", "For grounded-sam: GroundingDINO's weights.")
    sam: str = setting("", "For grounded-sam: SAM's weights.")
    bert: str = setting("", "For grounded-sam: a folder with the tokenizer of bert-base-uncased.")
    config: str = setting("", "For a checkpoint in a single file: a diffusers folder of the same family.")
    loras: tuple[tuple[str, int | float], ...] = setting((), "A LoRA for both passes, FILE or FILE:STRENGTH.")
    identities: tuple[tuple[str, str], ...] = setting((), "A saved identity to use, NAME=FILE.")
    masks: str = setting("", "A folder with an earlier run's masks, to use in place of a detector.")
    width: int = setting(1024, "Width of the frames in pixels.", 8, 8192)
    height: int = setting(1024, "Height of the frames in pixels.", 8, 8192)
    seed: int = setting(
        0,
        "Frame n starts from this plus n - 1 unless the story gives it a seed; portraits count on. With --together one "
        "noise for all frames.",
        0,
        2**64 - 1,
    )
    steps: int = setting(50, "Sampling steps (the paper's T).", 1)
    start: int | float = setting(
        10,
        "The step at which re-denoising begins (10 of 50 is the paper's t' = 40), or a share of the steps below 1.",
        0,
    )
    cfg: int | float = setting(7.0, "Guidance scale of both passes.", 0, 100)
    sampler: str = setting("euler", f"One of {', '.join(SAMPLERS)}.")
    scheduler: str = setting("normal", f"One of {', '.join(SCHEDULES)}.")
    max_kernel: int | float = setting(50, "How far masks have grown at the last step, in pixels at 1024.", 0, 1024)
    dilate: int | float = setting(10, "How far masks are grown when they are made, in pixels at 1024.", 0, 1024)
    soft_edge: bool = setting(False, "Blend mask edges by coverage in place of selecting whole latent cells.")
    prompt: str = setting(
        FRAME, "What the second pass draws a character from: the frame's prompt, or the character's description alone."
    )
    guidance: str = setting(
        OWN,
        "Whose unconditional prediction guides a character in the second pass: own; shared, one for all of a frame; or "
        "template's, for half the evaluations.",
    )
    region: bool = setting(
        False, "Let the second pass see only the part of the picture around each mask: less work, an approximation."
    )
    region_margin: int | float = setting(
        MARGIN, "With --region: how far that part reaches beyond the mask, in pixels at 1024.", 0, 1024
    )
    box_threshold: int | float = setting(0.3, "Least score of a box.", 0, 1)
    text_threshold: int | float = setting(0.25, "Least score of the word itself.", 0, 1)
    on_missing: str = setting("error", "A character who is not found: error, or skip to leave them as drawn.")
    portraits: int = setting(64, "Portraits per character (the paper's m).", 1, 1024)
    settled: int | float = setting(
        0,
        "Stop drawing portraits when a batch of them moves the identity by less than this, 1 minus the cosine, such as "
        "0.01; 0 draws them all.",
        0,
        2,
    )
    portrait_side: int = setting(1024, "Their width and height in pixels.", 8, 4096)
    portrait_batch: int = setting(4, "Portraits drawn at a time; lower it if memory runs out.", 1, 1024)
    portrait_steps: int = setting(50, "Their sampling steps.", 1)
    portrait_cfg: int | float = setting(5.0, "Their guidance scale.", 0, 100)
    portrait_template: str = setting("a close-up photo of {character}", "Their prompt, with {character} in it.")
    portrait_negative: str = setting("3d, cartoon, anime, sketches, illustration, painting", "Their negative prompt.")
    rank: int = setting(10, "Directions that count as the identity (the paper's k).", None, 2047)
    keep_ratio: int | float = setting(0.6, "Share of portraits kept per round (the paper's r).")
    rounds: int = setting(3, "Rounds of the discovery (the paper's p); 0 takes the mean of all portraits.", None, 100)
    device: str = setting("cpu", 'Where the models run: "cpu" or "cuda".')
    dtype: str = setting("float32", f"Type of the UNet and the text encoders: {', '.join(DTYPES)}.")
    threads: int = setting(1, "CPU threads per process; the last bits of a result depend on their number.", 1, 256)

    def __post_init__(self) -> None:
        self._check_text()
        self._check_ranges()
        self._check_choices()
        self._check_device()
        self._check_discovery()
        self._check_files()
        self.check_together()
        if self.together:
            self._check_single_pass()

    @property
    def finds_layouts(self) -> bool:
        """Whether frames drawn together are drawn without faces first, to find out where each face is to act."""
        return self.together and bool(self.adapter) and not self.masks and self.detector != "none"

    def with_device(self, device: str) -> "RunSettings":
        """The same on "cpu" or "cuda", which other hosts have; whether this one has it is not checked."""
        if device not in ("cpu", "cuda"):
            raise ValueError(f'device is {quote(device)}; with --workers and --ray use "cpu" or "cuda".')
        there = copy(self)
        object.__setattr__(there, "device", device)
        return there

    def _check_single_pass(self) -> None:
        """Refuse what only re-denoising reads where frames are drawn together."""
        if self.identities:
            raise ValueError(
                "identities are given, but frames drawn together are not re-denoised: give --adapter and --references "
                "for faces, or leave out --together."
            )
        if self.prompt != FRAME:
            raise ValueError(
                "prompt is for re-denoising, which frames drawn together do not have: leave out --prompt or --together."
            )
        if self.guidance != OWN:
            raise ValueError(
                "guidance is for re-denoising, which frames drawn together do not have: leave out --guidance or "
                "--together."
            )
        if self.region:
            raise ValueError(
                "region is for re-denoising, which frames drawn together do not have: leave out --region or --together."
            )
        if self.masks and not self.adapter:
            raise ValueError("masks are given, but no adapter whose faces they confine: give --adapter too.")

    def _check_text(self) -> None:
        for each in fields(self):
            if any(not is_encodable(text) for text in _texts(getattr(self, each.name))):
                raise ValueError(
                    f"{each.name} is {quote(getattr(self, each.name), _LONGEST_PATH)}, which is no text in UTF-8 and "
                    "cannot be kept in the manifest; rename the file, or write it in UTF-8."
                )

    def _check_ranges(self) -> None:
        for each in fields(self):
            least, most = each.metadata.get("least"), each.metadata.get("most")
            _check_range(each.name, getattr(self, each.name), least, most)
        for name in ("width", "height", "portrait_side"):
            if getattr(self, name) % 8:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be a multiple of 8.")
        for path, strength in self.loras:
            _check_range(f"The strength of the LoRA {quote(path, _LONGEST_PATH)}", strength, *_LORA_STRENGTHS)
        if not self.together:
            first_step(self.start, self.steps)
        if max(self.steps, self.portrait_steps) > 1000:
            raise ValueError(f"{max(self.steps, self.portrait_steps)} steps are more than the 1000 there are.")

    def _check_device(self) -> None:
        """The processor, or an accelerator that is there; "meta" and the like compute nothing."""
        counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "xpu": torch.xpu.device_count()}
        counts["mps"] = int(torch.backends.mps.is_available())
        try:
            device = torch.device(self.device)
        except RuntimeError:
            device = torch.device("meta")
        if device.type not in counts:
            raise ValueError(f'device is {quote(self.device)}; use "cpu" or "cuda".')
        if not counts[device.type]:
            kind = device.type.upper()
            raise ValueError(f'device is {quote(self.device)}, but torch finds no {kind} device here; use "cpu".')
        if (device.index or 0) >= counts[device.type]:
            raise ValueError(
                f"device is {quote(self.device)}, but the last {device.type} device here is number "
                f"{counts[device.type] - 1}."
            )

    def _check_choices(self) -> None:
        choices = {
            "sampler": SAMPLERS,
            "scheduler": SCHEDULES,
            "detector": DETECTORS,
            "on_missing": ("error", "skip"),
            "dtype": DTYPES,
            "prompt": PROMPTS,
            "guidance": GUIDANCE,
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {quote(getattr(self, name))}; it must be one of {', '.join(known)}.")
        if self.region and self.guidance == SHARED:
            raise ValueError(
                f"guidance is {quote(SHARED)}, but with region each character's unconditional prediction is of their "
                "own part of the picture: choose own, or leave out --region."
            )
        if "{character}" not in self.portrait_template:
            raise ValueError(
                f"portrait_template is {quote(self.portrait_template)}; it needs {{character}} for the description to "
                "go in."
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
        if not self.photomaker and not self.together:
            raise ValueError("Which PhotoMaker file? Give --photomaker, the path of photomaker-v1.bin.")
        for name in _FILES:
            path = getattr(self, name)
            if path and path != TOYWORLD and not os.path.exists(path):
                raise FileNotFoundError(f"{name}: there is no {quote(path, _LONGEST_PATH)}.")
            kind = _KINDS.get(name)
            if path and path != TOYWORLD and kind and (kind == "folder") != os.path.isdir(path):
                raise ValueError(f"{name}: {quote(path, _LONGEST_PATH)} is not a {kind}; give a {kind}.")
        for what, pairs in (("LoRA", self.loras), ("identity", [(path, name) for name, path in self.identities])):
            for path, _ in pairs:
                if not os.path.isfile(path):  # False also for a name that the system does not take
                    raise FileNotFoundError(f"There is no {what} file {quote(path, _LONGEST_PATH)}.")

    def record(self) -> dict[str, Any]:
        """What the bytes of a run depend on, for its manifest: files by name and content, not by where they lie."""
        record: dict[str, Any] = {}
        for each in self._counting():
            value = getattr(self, each.name)
            if value and each.name in READ_BY and (value == TOYWORLD or is_toyworld(Path(value))):
                content = mark_of(folder_read(self.checkpoint, each.name), READ_BY[each.name])
                record[each.name] = {"name": TOYWORLD, "content": content}
            elif each.name in _FILES and value:
                record[each.name] = _record_file(value)
            elif each.name == "loras":
                record[each.name] = [{**_record_file(path), "strength": strength} for path, strength in value]
            elif each.name == "identities":
                record[each.name] = {name: _record_file(path) for name, path in value}
            elif each.name == "references":
                record[each.name] = [{"character": name, **_record_file(path)} for name, path in value]
            elif each.name not in _UNRECORDED and value != _MEANT.get(each.name):
                record[each.name] = value
        return record

    def places(self) -> dict[str, Any]:
        """Where the files of the settings lie, which `record` leaves out."""
        return {each.name: getattr(self, each.name) for each in self._counting() if each.name in _PLACES}

    def _counting(self) -> list[DataclassField]:
        """The settings that a run depends on: those of frames drawn together count only for such frames.

        PhotoMaker v2 reads insightface's face models, too.
        """
        others = {each.name for each in fields(TogetherSettings)} if not self.together else set()
        if self.face_models not in ("", TOYWORLD):
            others -= {"face_models"}
        return [each for each in fields(self) if each.name not in others]


def _form_of_record() -> type[Entry]:
    """What a manifest says of the settings that are no files; what it leaves out is the default."""
    kinds = {"int": int, "int | float": Number, "str": Text, "bool": bool}
    form: Any = {}
    for each in fields(RunSettings):
        if each.name not in (*_PLACES, *_UNRECORDED):
            kind: Any = kinds[getattr(each.type, "__name__", str(each.type))]
            bounds = Field(ge=each.metadata["least"], le=each.metadata["most"])
            form[each.name] = (Annotated[kind, bounds] if kind is int else kind, each.default)
    return create_model("RecordedSettings", __base__=Entry, **form)


class Places(Entry):
    """Where the files of the settings lie."""

    checkpoint: Text
    photomaker: Text
    detector: Text = "none"
    config: Text = ""
    grounding_dino: Text = ""
    sam: Text = ""
    bert: Text = ""
    masks: Text = ""
    adapter: Text = ""
    image_encoder: Text = ""
    face_models: Text = ""
    references: Items[Annotated[tuple[Text, Text], Strict(False)]] = []
    loras: Items[Annotated[tuple[Text, Number], Strict(False)]] = []
    identities: Items[Annotated[tuple[Text, Text], Strict(False)]] = []


RecordedSettings = _form_of_record()


class SettingsPart(Entry):
    """What a manifest says of the settings."""

    settings: RecordedSettings  # pyright: ignore[reportInvalidTypeForm]
    places: Places


def settings_of(manifest: Mapping[str, Any], **changes: Any) -> RunSettings:
    """The settings a run's manifest describes; `changes` replace single ones.

    Raises:
        ValueError, FileNotFoundError: If the manifest has another form, or for what `RunSettings` refuses.
    """
    part = checked(SettingsPart, manifest, "The manifest")
    places = {name: value for name, value in part.places if not isinstance(value, list)}
    pairs = {name: tuple(getattr(part.places, name)) for name in _PAIRS}
    return RunSettings(**{**dict(part.settings), **places, **pairs, **changes})


def _check_range(what: str, value: Any, least: int | float | None, most: int | float | None) -> None:
    if (least is None or value >= least) and (most is None or value <= most):
        return
    if least is not None and most is not None:
        allowed = f"from {least} to {most}"
    else:
        allowed = f"at most {most}" if least is None else f"{least} or more"
    raise ValueError(f"{what} is {quote(value)}; it must be {allowed}.")


def _texts(value: Any) -> Iterator[str]:
    """All texts of a setting."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        for each in value:
            yield from _texts(each)


def _record_file(path: str) -> dict[str, Any]:
    return {"name": Path(path).name, "content": mark_of(Path(path))}


def toyworld_settings(**changes: Any) -> RunSettings:
    """Settings that suit the toy world; `changes` replace single ones."""
    faces = _TOYWORLD_FACES if changes.get("adapter") else {}
    return RunSettings(**{**TOYWORLD_SETTINGS, **faces, **changes})
