"""The options of the command line, one for each setting of a run.

What an option means and its default come from `RunSettings`. An option that is not given is None, so that defaults stay
with the settings.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any

import typer

from .run_settings import TOYWORLD_SETTINGS, RunSettings

WORKERS = "Several workers (Ray)"
FILES, FRAMES, PORTRAITS = "Files", "Frames", "Portraits and identities"
TOGETHER, COMPUTING = "Frames drawn together (Storynizor)", "Computing"
_SETTINGS = {each.name: each for each in dataclasses.fields(RunSettings)}


def option(name: str, panel: str, flag: str = "") -> Any:
    """The option of a setting.

    Args:
        name: The setting's, of `RunSettings`.
        panel: Under which heading `--help` shows it.
        flag: The option's own name, where it is not the setting's.
    """
    setting = _SETTINGS[name]
    meaning, default = setting.metadata["meaning"], setting.default
    if default not in (dataclasses.MISSING, "", ()) and default is not False:
        toyworld = TOYWORLD_SETTINGS.get(name)
        toyworld = "" if toyworld is None else f" (toy world: {toyworld or 'none'})"
        meaning += f" Default: {'on' if default is True else default}{toyworld}."
    return typer.Option(flag or f"--{name.replace('_', '-')}", help=meaning, show_default=False, rich_help_panel=panel)


def given_settings(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A command's arguments that are settings and were given; a whole `start` is the number of a step."""
    given = {name: value for name, value in arguments.items() if name in _SETTINGS and value not in (None, [])}
    if isinstance(given.get("start"), float) and given["start"].is_integer():
        given["start"] = int(given["start"])
    return given


def path_of(text: str) -> Path:
    """A path that a user typed; an empty one, which Python takes for the current folder, is a mistake."""
    if not text:
        raise typer.BadParameter("it is empty; give a path.")
    return Path(text)


StoryFile = Annotated[
    Path, typer.Argument(metavar="STORY", help="A story file (JSON).", show_default=False, parser=path_of)
]
Stories = Annotated[
    list[Path],
    typer.Argument(
        metavar="STORY...",
        help="A story file (JSON). With --workers or --ray several, folders of them, and .txt files that list them, "
        "one a line: each story then has a folder of its own in --out, called like its file.",
        show_default=False,
        parser=path_of,
    ),
]
OutFolder = Annotated[Path, typer.Option(metavar="DIR", help="Where the files go.", show_default=False, parser=path_of)]
AsPublished = Annotated[
    bool,
    typer.Option(
        "--as-published",
        help="For a file of ConsiStory-Human: build its prompts as IdentityStory's published code does. --prompt is "
        "then character unless it is given.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start over: delete the files of the folder's run.")]

Checkpoint = Annotated[str | None, option("checkpoint", FILES)]
Photomaker = Annotated[str | None, option("photomaker", FILES)]
Config = Annotated[str | None, option("config", FILES)]
Loras = Annotated[list[str] | None, option("loras", FILES, "--lora")]
Identities = Annotated[list[str] | None, option("identities", FILES, "--identity")]
Masks = Annotated[str | None, option("masks", FILES)]
Detector = Annotated[str | None, option("detector", FILES)]
GroundingDino = Annotated[str | None, option("grounding_dino", FILES)]
Sam = Annotated[str | None, option("sam", FILES)]
Bert = Annotated[str | None, option("bert", FILES)]

Width = Annotated[int | None, option("width", FRAMES)]
Height = Annotated[int | None, option("height", FRAMES)]
Seed = Annotated[int | None, option("seed", FRAMES)]
Steps = Annotated[int | None, option("steps", FRAMES)]
Cfg = Annotated[float | None, option("cfg", FRAMES)]
Sampler = Annotated[str | None, option("sampler", FRAMES)]
Scheduler = Annotated[str | None, option("scheduler", FRAMES)]
Start = Annotated[float | None, option("start", FRAMES)]
MaxKernel = Annotated[float | None, option("max_kernel", FRAMES)]
SoftEdge = Annotated[bool | None, option("soft_edge", FRAMES)]
Prompt = Annotated[str | None, option("prompt", FRAMES)]
Guidance = Annotated[str | None, option("guidance", FRAMES)]
Region = Annotated[bool | None, option("region", FRAMES)]
RegionMargin = Annotated[float | None, option("region_margin", FRAMES)]
Dilate = Annotated[float | None, option("dilate", FRAMES)]
BoxThreshold = Annotated[float | None, option("box_threshold", FRAMES)]
TextThreshold = Annotated[float | None, option("text_threshold", FRAMES)]
OnMissing = Annotated[str | None, option("on_missing", FRAMES)]

Portraits = Annotated[int | None, option("portraits", PORTRAITS)]
Settled = Annotated[float | None, option("settled", PORTRAITS)]
PortraitSide = Annotated[int | None, option("portrait_side", PORTRAITS)]
PortraitBatch = Annotated[int | None, option("portrait_batch", PORTRAITS)]
PortraitSteps = Annotated[int | None, option("portrait_steps", PORTRAITS)]
PortraitCfg = Annotated[float | None, option("portrait_cfg", PORTRAITS)]
PortraitTemplate = Annotated[str | None, option("portrait_template", PORTRAITS)]
PortraitNegative = Annotated[str | None, option("portrait_negative", PORTRAITS)]
Rank = Annotated[int | None, option("rank", PORTRAITS)]
KeepRatio = Annotated[float | None, option("keep_ratio", PORTRAITS)]
Rounds = Annotated[int | None, option("rounds", PORTRAITS)]

Together = Annotated[bool | None, option("together", TOGETHER)]
Anchors = Annotated[int | None, option("anchors", TOGETHER)]
Strength = Annotated[float | None, option("strength", TOGETHER)]
Layers = Annotated[str | None, option("layers", TOGETHER)]
StartPercent = Annotated[float | None, option("start_percent", TOGETHER)]
EndPercent = Annotated[float | None, option("end_percent", TOGETHER)]
SameCharacter = Annotated[bool | None, option("same_character", TOGETHER, "--same-character/--no-same-character")]
Threshold = Annotated[float | None, option("threshold", TOGETHER)]
Decay = Annotated[float | None, option("decay", TOGETHER)]
Adapter = Annotated[str | None, option("adapter", TOGETHER)]
References = Annotated[list[str] | None, option("references", TOGETHER)]
ImageEncoder = Annotated[str | None, option("image_encoder", TOGETHER)]
FaceModels = Annotated[str | None, option("face_models", TOGETHER)]
Mode = Annotated[str | None, option("mode", TOGETHER)]
ShuffleSeed = Annotated[int | None, option("shuffle_seed", TOGETHER)]
Weight = Annotated[float | None, option("weight", TOGETHER)]
InjectStartPercent = Annotated[float | None, option("inject_start_percent", TOGETHER)]
InjectEndPercent = Annotated[float | None, option("inject_end_percent", TOGETHER)]
PictureWeight = Annotated[float | None, option("picture_weight", TOGETHER)]

Device = Annotated[str | None, option("device", COMPUTING)]
Dtype = Annotated[str | None, option("dtype", COMPUTING)]
Threads = Annotated[int | None, option("threads", COMPUTING)]

Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=100_000,
        help="How many workers share the stories, each with its models loaded: one per GPU with --device cuda, "
        "otherwise processes on the CPU. With --ray the most there are to be.",
        show_default=False,
        rich_help_panel=WORKERS,
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="A Ray cluster that is there, HOST:PORT or auto; without --workers all of it is used.",
        show_default=False,
        rich_help_panel=WORKERS,
    ),
]
Retries = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=1000,
        help="How often a frame is begun again whose worker ended. Default: 3.",
        show_default=False,
        rich_help_panel=WORKERS,
    ),
]


def with_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose `**given` receives all options of a run, but for those that it has itself."""
    own = [each for each in signature(command).parameters.values() if each.kind is not Parameter.VAR_KEYWORD]
    taken = {each.name for each in own}
    more = {name: _ALIASES[name] for name in _SETTINGS if name not in taken}
    added = [Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=kind) for name, kind in more.items()]
    kept = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in own]

    @wraps(command)
    def called(**arguments: Any) -> None:
        command(**arguments)

    called.__signature__ = Signature([*kept, *added])  # pyright: ignore[reportAttributeAccessIssue]
    called.__annotations__ = {each.name: each.annotation for each in (*kept, *added)}
    return called


_ALIASES = {name: globals()["".join(part.title() for part in name.split("_"))] for name in _SETTINGS}
