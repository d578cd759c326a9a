"""The files of a workflow tried out: what they are, and two steps of everything that uses them, at small size."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.frame_sharing import Sharing
from ..core.layout import Layout
from ..core.quoting import printable
from ..core.redenoise import to_latent_grid
from ..core.shapes import Float
from ..core.story import Story
from ..core.story_fields import read_json
from ..core.weights import WeightFile, find, load_manifest, verify
from .detection import load_detector
from .prompts import encode_prompt
from .run_settings import RunSettings
from .sampling import SamplingPlan, decode, redenoise, sample_template, starting_noise
from .shared_frames import encode_together, new_sharing, positions_of, sample_together
from .studio import Studio, check_finite, open_pipeline, open_studio

STEPS, START, PORTRAITS = 2, 1, 2
STORY = Story.parse(
    {
        "characters": [
            {"name": "Mira", "word": "woman", "description": "a woman with red hair"},
            {"name": "Tom", "word": "boy", "description": "a boy with black hair"},
        ],
        "frames": ["Mira and Tom in a forest", "Mira and Tom on a beach"],
    }
)
"""Two people in two frames; the words are the toy world's too."""
_FILES = ("checkpoint", "photomaker", "grounding_dino", "sam")
_FAILURES = (ValueError, OSError, RuntimeError, ModuleNotFoundError)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class FileCheck:
    """One file: its name, and what was compared with models.json; `problem` is empty where all is right."""

    name: str
    size: int | None
    checked: tuple[str, ...]
    problem: str = ""


FoundFile = tuple[FileCheck, Path | None]
"""What was found of a file, and where it is."""


@dataclass
class Stage:
    """One stage: seconds, samples that went through the UNet, peak memory in MiB (None on Windows), what was found."""

    name: str
    seconds: float = 0.0
    evaluations: int = 0
    peak_mib: float | None = None
    found: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


@dataclass
class Verification:
    """Everything that a report says, but for the benchmark."""

    files: list[FileCheck] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    pictures: dict[str, Float[Tensor, "h w 3"]] = field(default_factory=dict)

    @property
    def is_sound(self) -> bool:
        return not any(each.problem for each in (*self.files, *self.stages))


def models_of_workflow(path: Path) -> list[tuple[str, str]]:
    """The folder and the name of every model file that a workflow's nodes list.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no workflow in the editor's format, or lists no models.
    """
    found = list(dict.fromkeys(_listed(read_json(path))))
    if not found:
        raise ValueError(f"{printable(path.name)} lists no models; give a workflow as the editor saves it.")
    return found


def _listed(content: Any) -> Iterator[tuple[str, str]]:
    if isinstance(content, dict):
        models = content.get("models")
        for each in models if isinstance(models, list) else ():
            if isinstance(each, dict) and isinstance(each.get("name"), str) and isinstance(each.get("directory"), str):
                yield each["directory"], each["name"]
    values = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    for value in values:
        yield from _listed(value)


def check_workflow_files(models: Sequence[tuple[str, str]], models_dir: Path) -> dict[str, FoundFile]:
    """Every file of a workflow by its folder and name: the check, and where it is."""
    known = {(each.folder, each.name): each for each in load_manifest().values()}
    checks = {}
    for folder, name in models:
        weight = known.get((folder, name))
        path = find(weight, [models_dir / folder]) if weight else models_dir / folder / name
        checks[f"{folder}/{name}"] = (_check(f"{folder}/{name}", path, weight), path)
    return checks


def check_run_files(settings: RunSettings) -> list[FileCheck]:
    """The single files that the settings name; folders are read when they are loaded."""
    by_name = {each.name: each for each in load_manifest().values()}
    paths = [Path(value) for name in _FILES if (value := getattr(settings, name))]
    paths += [Path(path) for path, _ in settings.loras]
    return [_check(path.name, path, by_name.get(path.name)) for path in paths if path.is_file()]


def _check(name: str, path: Path | None, weight: WeightFile | None) -> FileCheck:
    if path is None or not path.is_file():
        return FileCheck(name, None, (), "missing")
    size = path.stat().st_size
    if weight is None:
        return FileCheck(name, size, ())
    try:
        return FileCheck(name, size, verify(weight, path))
    except (ValueError, OSError) as error:
        return FileCheck(name, size, (), str(error).replace(str(path), name))


def try_out(settings: RunSettings, report: Progress) -> Verification:
    """Load what the settings name and run two steps of each pass and of AMSA, at the settings' size.

    A stage that fails says why and is the last one. Without a PhotoMaker file the second pass draws from the frame's
    prompt alone.

    Args:
        settings: Of a run; steps, start and the discovery are replaced by the least there is.
        report: Called with every stage.
    """
    small = replace(
        settings,
        **dict.fromkeys(("steps", "portrait_steps"), STEPS),
        **dict.fromkeys(("portraits", "portrait_batch"), PORTRAITS),
        start=START,
        portrait_side=min(settings.width, settings.height),
        rank=1,
        rounds=0,
        on_missing="skip",
    )
    trial = _Trial(small, Verification())
    stages = [trial.load, trial.discover, trial.template, trial.find, trial.second_pass, trial.amsa]
    for number, stage in enumerate(stages):
        report("stages", number, len(stages))
        if not trial.run(stage):
            break
    report("stages", len(stages), len(stages))
    return trial.result


class _Trial:
    """The stages, each of which needs what those before it made."""

    def __init__(self, settings: RunSettings, result: Verification) -> None:
        self.settings, self.result = settings, result
        self.pipe: Any = None
        self.studio: Studio | None = None
        self.identities: dict[str, Any] = {}
        self.cache: Any = None

    def run(self, stage: Callable[[], Mapping[str, Any] | None]) -> bool:
        """Whether a stage went well; one that has nothing to do leaves no line."""
        entry = Stage((stage.__doc__ or "").rstrip("."))
        with _measured(entry, self.pipe, self.settings.device):
            try:
                found = stage()
            except _FAILURES as error:
                found, entry.problem = {}, printable(f"{type(error).__name__}: {error}", 1000)
        if found is not None:
            entry.found = dict(found)
            self.result.stages.append(entry)
        return not entry.problem

    def load(self) -> Mapping[str, Any]:
        """Loading."""
        settings = self.settings
        if settings.photomaker:
            self.studio = open_studio(settings, settings.device, load_detector(settings, settings.device))
            self.pipe = self.studio.pipe
        else:
            self.pipe = open_pipeline(settings, settings.device)
        pipe = self.pipe
        encoders = [getattr(pipe, name, None) for name in ("text_encoder", "text_encoder_2")]
        found = {
            "family": type(pipe).__name__,
            "UNet's tensors": len(pipe.unet.state_dict()),
            "width of its context": pipe.unet.config.cross_attention_dim,
            "widths of the text encoders": [each.config.hidden_size for each in encoders if each is not None],
            "channels of latents": pipe.vae.config.latent_channels,
            "pixels of a latent cell": pipe.vae_scale_factor,
        }
        return found | ({"width of PhotoMaker's embedding": self.studio.photomaker.width} if self.studio else {})

    def discover(self) -> Mapping[str, Any] | None:
        """Portraits and identities."""
        if self.studio is None:
            return None
        for number, person in enumerate(STORY.characters):
            found, _ = self.studio.discover(person, PORTRAITS * number, self._keep(person.name), _silent)
            self.identities[person.name] = found
        return {"widths": [len(each.embedding) for each in self.identities.values()]}

    def _keep(self, name: str) -> Callable[[Tensor], None]:
        return lambda pictures: self.result.pictures.update({f"portrait_{name}": pictures[0]})

    def template(self) -> Mapping[str, Any]:
        """Template."""
        frame, seed = STORY.frames[0], self.settings.seed
        prompt, negative = (encode_prompt(self.pipe, text, frame.label) for text in (frame.prompt, frame.negative))
        self.cache = sample_template(self._plan(), prompt, negative, self._noise([seed]), seed)
        check_finite(self.cache.final, "The template", self.settings)
        self.result.pictures["template"] = picture = decode(self.pipe, self.cache.final)[0]
        return _about(picture)

    def find(self) -> Mapping[str, Any] | None:
        """Detector."""
        if self.studio is None or self.studio.detector is None:
            return None
        layout = self.studio.find(STORY.frames[0], self.result.pictures["template"], None)
        found = [name for name, mask in zip(layout.names, layout.masks, strict=True) if mask.any()]
        return {"found": found, "of": list(layout.names)}

    def second_pass(self) -> Mapping[str, Any]:
        """Second pass, in the left and the right quarter."""
        frame, settings = STORY.frames[0], self.settings
        masks = torch.zeros(2, settings.height, settings.width, dtype=torch.bool)
        masks[0, :, : settings.width // 4], masks[1, :, -settings.width // 4 :] = True, True
        layout = Layout(tuple(person.name for person in frame.cast), masks, frame.label)
        if self.studio is not None:
            still = replace(self.studio, settings=replace(settings, max_kernel=0, soft_edge=False))
            latent = still.put_in(frame, self.cache, layout, self.identities, _silent)
        else:
            prompt, negative = (encode_prompt(self.pipe, text, frame.label) for text in (frame.prompt, frame.negative))
            prompts = {name: (prompt, negative) for name in layout.names}
            latent = redenoise(self._plan(), self.cache, layout, prompts, start=START, max_kernel=0, soft_edge=False)
        check_finite(latent, "The second pass", settings)
        self.result.pictures["second_pass"] = picture = decode(self.pipe, latent)[0]
        cells = to_latent_grid(masks, latent.shape[-2], latent.shape[-1]).any(dim=0)
        change = (latent - self.cache.final).abs().amax(dim=(0, 1)) * ~cells.reshape(latent.shape[-2:])
        if change.max() > 0:
            raise ValueError(f"The second pass changed latents outside its masks, by {float(change.max()):g}.")
        return _about(picture) | {"largest change outside the masks": float(change.max())}

    def amsa(self) -> Mapping[str, Any]:
        """AMSA, two frames."""
        settings = self.settings
        seeds = [settings.seed + frame.index for frame in STORY.frames]
        sharing = new_sharing(Sharing(), positions_of(self.pipe, STORY), len(STORY.frames))
        prompts = encode_together(self.pipe, STORY.frames)
        latents = sample_together(self._plan(), prompts, self._noise(seeds), seeds[0], sharing)
        check_finite(latents, "AMSA", settings)
        pictures = decode(self.pipe, latents)
        self.result.pictures |= {f"together_{number}": picture for number, picture in enumerate(pictures, start=1)}
        maps = sharing.reader.maps
        if maps is None:
            raise ValueError("No attention map was read: the frames did not see each other.")
        return _about(pictures[0]) | {"grid of the maps": list(maps.grid)}

    def _noise(self, seeds: Sequence[int]) -> Float[Tensor, "n c lh lw"]:
        ratio, channels = self.pipe.vae_scale_factor, self.pipe.vae.config.latent_channels
        return starting_noise(seeds, channels, self.settings.height // ratio, self.settings.width // ratio)

    def _plan(self) -> SamplingPlan:
        settings = self.settings
        return SamplingPlan(self.pipe, settings.sampler, settings.scheduler, settings.steps, settings.cfg)


@contextmanager
def _measured(entry: Stage, pipe: Any, device: str) -> Iterator[None]:
    """Note how long something takes, what it evaluates, and the peak of memory so far (of the GPU: of this stage)."""
    on_gpu = device.startswith("cuda")
    hook = None
    if pipe is not None:

        def count(module: Any, arguments: Any) -> None:
            entry.evaluations += len(arguments[0])

        hook = pipe.unet.register_forward_pre_hook(count)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    started = time.monotonic()
    try:
        yield
    finally:
        if on_gpu:
            torch.cuda.synchronize(device)
        entry.seconds = time.monotonic() - started
        entry.peak_mib = torch.cuda.max_memory_allocated(device) / 2**20 if on_gpu else _resident_mib()
        if hook is not None:
            hook.remove()


def _resident_mib() -> float | None:
    """The most memory this process has had; ru_maxrss is in KiB, but in bytes on macOS."""
    if sys.platform == "win32":
        return None
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


def _about(picture: Float[Tensor, "h w 3"]) -> dict[str, Any]:
    """What tells a picture from a grey or a broken one."""
    if not picture.isfinite().all():
        raise ValueError("The decoded picture has NaN or infinite values: the VAE overflowed.")
    return {"size": [picture.shape[1], picture.shape[0]], "spread of pixels": round(float(picture.std()), 4)}


def _silent(what: str, done: int, total: int) -> None:
    """A report that does nothing."""
