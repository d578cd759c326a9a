"""The command line `story-identity`. What takes long to import waits until a command needs it.

`lab/cli.py` adds the commands of the laboratory to the same tree.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core import weights_cli
from ..core.quoting import quote
from . import options
from .benchmark_command import benchmark
from .option_values import TOYWORLD
from .run_settings import RunSettings, settings_of, toyworld_settings
from .score_command import score
from .stopping import stoppable
from .terminal import plain_errors, progress, quiet_imports, quiet_libraries, say, shown
from .verify_command import verify
from .workers_command import Crowd, is_collection, run_with_workers, say_painted

if TYPE_CHECKING:
    from ..core.story import Story

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Picture stories that keep their characters from frame to frame.",
)
models = typer.Typer(no_args_is_help=True, help="The weight files of the workflows: list, check, download ID.")
app.add_typer(models, name="models", rich_help_panel="Models")
STORIES = "Stories"
ModelsFolder = Annotated[
    str | None, typer.Option(metavar="DIR", help="ComfyUI's models folder, where it is not found by itself.")
]


@contextmanager
def command() -> Iterator[None]:
    """Inside, libraries are silent, and what the user can mend is said in one line."""
    quiet_imports()
    with plain_errors():
        yield


@app.command(rich_help_panel=STORIES)
def run(
    stories: options.Stories,
    out: options.OutFolder,
    overwrite: options.Overwrite = False,
    as_published: options.AsPublished = False,
    checkpoint: options.Checkpoint = None,
    photomaker: options.Photomaker = None,
    config: options.Config = None,
    loras: options.Loras = None,
    identities: options.Identities = None,
    masks: options.Masks = None,
    detector: options.Detector = None,
    grounding_dino: options.GroundingDino = None,
    sam: options.Sam = None,
    bert: options.Bert = None,
    width: options.Width = None,
    height: options.Height = None,
    seed: options.Seed = None,
    steps: options.Steps = None,
    cfg: options.Cfg = None,
    sampler: options.Sampler = None,
    scheduler: options.Scheduler = None,
    start: options.Start = None,
    max_kernel: options.MaxKernel = None,
    soft_edge: options.SoftEdge = None,
    prompt: options.Prompt = None,
    guidance: options.Guidance = None,
    region: options.Region = None,
    region_margin: options.RegionMargin = None,
    dilate: options.Dilate = None,
    box_threshold: options.BoxThreshold = None,
    text_threshold: options.TextThreshold = None,
    on_missing: options.OnMissing = None,
    portraits: options.Portraits = None,
    settled: options.Settled = None,
    portrait_side: options.PortraitSide = None,
    portrait_batch: options.PortraitBatch = None,
    portrait_steps: options.PortraitSteps = None,
    portrait_cfg: options.PortraitCfg = None,
    portrait_template: options.PortraitTemplate = None,
    portrait_negative: options.PortraitNegative = None,
    rank: options.Rank = None,
    keep_ratio: options.KeepRatio = None,
    rounds: options.Rounds = None,
    together: options.Together = None,
    anchors: options.Anchors = None,
    strength: options.Strength = None,
    layers: options.Layers = None,
    start_percent: options.StartPercent = None,
    end_percent: options.EndPercent = None,
    same_character: options.SameCharacter = None,
    threshold: options.Threshold = None,
    decay: options.Decay = None,
    adapter: options.Adapter = None,
    references: options.References = None,
    image_encoder: options.ImageEncoder = None,
    face_models: options.FaceModels = None,
    mode: options.Mode = None,
    shuffle_seed: options.ShuffleSeed = None,
    weight: options.Weight = None,
    inject_start_percent: options.InjectStartPercent = None,
    inject_end_percent: options.InjectEndPercent = None,
    picture_weight: options.PictureWeight = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    threads: options.Threads = None,
    workers: options.Workers = None,
    ray: options.Ray = None,
    retries: options.Retries = None,
) -> None:
    """Make a story: an identity per character, then frame after frame. Stopped at any point, run it again to go on.

    With --together all frames are drawn as one batch that shares attention; --adapter and --references give faces.

    Ctrl-C ends it with exit status 130, SIGTERM with 143. Files that are lost or damaged are made again.

    With --checkpoint toyworld, settings that are not given are those of the toy world. With --workers several
    processes share one story or many; what cannot be made is named in the end, with exit status 1.
    """
    given = options.given_settings(locals())
    with command():
        if workers is None and ray is None:
            _run(_only(stories, retries), out, overwrite, as_published, given)
        else:
            run_with_workers(stories, out, overwrite, as_published, given, Crowd(workers, ray, retries))


def _only(stories: Sequence[Path], retries: int | None) -> Path:
    """The story of a run without workers."""
    if len(stories) != 1 or is_collection(stories[0]):
        raise ValueError("Several stories are work for --workers: give --workers 1 or more.")
    if retries is not None:
        raise ValueError("--retries is for --workers and --ray; give one of them, or leave it out.")
    return stories[0]


def _run(story: Path, out: Path, overwrite: bool, as_published: bool, given: Mapping[str, Any]) -> None:
    from ..core.story import CHARACTER, Story
    from ..core.story_warnings import story_warnings
    from .run import run_story
    from .run_together import notes_on

    loaded = Story.load(story, as_published)
    chosen = {"prompt": CHARACTER, **given} if as_published and not given.get("together") else given
    settings = settings_from(with_story_references(chosen, loaded, story.parent))
    for sentence in (*story_warnings(loaded), *notes_on(loaded, settings)):
        say(sentence, error=True)
    with progress() as report:
        folder = run_story(loaded, settings, out, overwrite=overwrite, report=report)
    say_painted(folder, loaded, settings)
    say(f"The story is in {shown(folder.root)}")


@app.command(rich_help_panel=STORIES)
def discover(
    story: options.StoryFile,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The identity file to write.", parser=options.path_of)],
    character: Annotated[str, typer.Option(help="Whose identity to find; may be left out if there is only one.")] = "",
    checkpoint: options.Checkpoint = None,
    photomaker: options.Photomaker = None,
    face_models: options.FaceModels = None,
    config: options.Config = None,
    loras: options.Loras = None,
    identities: options.Identities = None,
    masks: options.Masks = None,
    detector: options.Detector = None,
    grounding_dino: options.GroundingDino = None,
    sam: options.Sam = None,
    bert: options.Bert = None,
    width: options.Width = None,
    height: options.Height = None,
    seed: options.Seed = None,
    steps: options.Steps = None,
    cfg: options.Cfg = None,
    sampler: options.Sampler = None,
    scheduler: options.Scheduler = None,
    start: options.Start = None,
    max_kernel: options.MaxKernel = None,
    soft_edge: options.SoftEdge = None,
    prompt: options.Prompt = None,
    guidance: options.Guidance = None,
    region: options.Region = None,
    region_margin: options.RegionMargin = None,
    dilate: options.Dilate = None,
    box_threshold: options.BoxThreshold = None,
    text_threshold: options.TextThreshold = None,
    on_missing: options.OnMissing = None,
    portraits: options.Portraits = None,
    settled: options.Settled = None,
    portrait_side: options.PortraitSide = None,
    portrait_batch: options.PortraitBatch = None,
    portrait_steps: options.PortraitSteps = None,
    portrait_cfg: options.PortraitCfg = None,
    portrait_template: options.PortraitTemplate = None,
    portrait_negative: options.PortraitNegative = None,
    rank: options.Rank = None,
    keep_ratio: options.KeepRatio = None,
    rounds: options.Rounds = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    threads: options.Threads = None,
) -> None:
    """Find one character's identity from text alone, and save it for `run --identity NAME=FILE`."""
    with command():
        _discover(story, out, character, options.given_settings(locals()))


def _discover(story: Path, out: Path, character: str, given: Mapping[str, Any]) -> None:
    from ..core.story import Story
    from .processes import cpu_threads
    from .studio import open_studio

    settings, loaded = settings_from(given), Story.load(story)
    check_identity_file(out)
    found = loaded.character(character)
    with cpu_threads(settings.threads), progress() as report:
        studio = open_studio(settings, settings.device)
        studio.check_portraits(found)
        first_seed = studio.first_portrait_seed(loaded.characters.index(found))
        identity, kept = studio.discover(found, first_seed, lambda pictures: None, report)
    identity.save(out)
    drawn = identity.metadata["discovery"]["portraits"]
    say(f"{quote(found.name)} is in {shown(out)}: the mean of {len(kept)} of {drawn} portraits")


@app.command(rich_help_panel=STORIES)
def redenoise(
    finished: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="The folder of a finished run.", show_default=False, parser=options.path_of),
    ],
    out: options.OutFolder,
    overwrite: options.Overwrite = False,
    start: options.Start = None,
    max_kernel: options.MaxKernel = None,
    soft_edge: options.SoftEdge = None,
    prompt: options.Prompt = None,
    guidance: options.Guidance = None,
    region: options.Region = None,
    region_margin: options.RegionMargin = None,
    identities: options.Identities = None,
    checkpoint: options.Checkpoint = None,
    photomaker: options.Photomaker = None,
    face_models: options.FaceModels = None,
    config: options.Config = None,
) -> None:
    """Do the second pass of a finished run again, with other settings of it, other identities, or painted masks.

    Identities and masks of the run are used as they are: a mask file painted in (0 is the background, n the nth
    character of the frame) counts. Templates are drawn again from their seeds, which gives the same ones. Give
    --checkpoint, --photomaker, --face-models and --config if those files lie elsewhere now.
    """
    with command():
        _redenoise(finished, out, overwrite, options.given_settings(locals()))


def _redenoise(finished: Path, out: Path, overwrite: bool, given: dict[str, Any]) -> None:
    from .run import run_story
    from .run_folder import RunFolder, story_of

    folder = RunFolder(finished)
    manifest = folder.read_manifest()
    if manifest is None:
        raise FileNotFoundError(f"{shown(finished)} is no folder of a run: it has no manifest.json.")
    if manifest["settings"].get("together"):
        raise ValueError(f"The frames of {shown(finished)} were drawn together, without a second pass to do again.")
    story = story_of(manifest)
    present = {person.name: folder.identity(person.name) for frame in story.frames for person in frame.cast}
    identities = {name: str(path) for name, path in present.items()}
    identities |= dict(_pairs(given.pop("identities", []), "--identity"))
    changes = {**given, "identities": tuple(identities.items()), "masks": str(folder.masks_folder)}
    with progress() as report:
        run_story(story, settings_of(manifest, **changes), out, overwrite=overwrite, report=report)
    say(f"The story is in {shown(out)}")


@models.command("list")
def list_models(models_dir: ModelsFolder = None) -> None:
    """List every file: here or missing, its size and licence."""
    _weights("list", models_dir)


@models.command("check")
def check_models(models_dir: ModelsFolder = None) -> None:
    """Compare the files that are here with their sizes and check sums; exit status 1 if one is corrupt."""
    _weights("check", models_dir)


@models.command("download")
def download_model(
    file: Annotated[str, typer.Argument(metavar="ID", help="Which file, as `list` calls it.", show_default=False)],
    accept_licence: Annotated[bool, typer.Option(help="For files that are not for commercial use.")] = False,
    models_dir: ModelsFolder = None,
) -> None:
    """Fetch one file into its folder."""
    _weights("download", models_dir, file, *(["--accept-licence"] if accept_licence else []))


def _weights(word: str, models_dir: str | None, *words: str) -> None:
    """Run `core/weights_cli.py`, which is a program of its own for Pythons that have nothing but ComfyUI's packages."""
    folder = [] if models_dir is None else [f"--models-dir={models_dir}"]
    with stoppable():
        status = weights_cli.main([word, *folder, *words], "story-identity models")
    raise typer.Exit(status)


@app.command(rich_help_panel=STORIES)
def demo(out: options.OutFolder = Path("demo"), overwrite: options.Overwrite = False) -> None:
    """Make a story of two people in the toy world, with a sheet and a page that show how it was made."""
    with command():
        quiet_libraries()
        from .demo import main

        with progress() as report:
            summary = main(out, overwrite, report)
    say(summary)


app.command()(score)
app.command(rich_help_panel=STORIES)(benchmark)
app.command(rich_help_panel="Models")(verify)


def settings_from(given: Mapping[str, Any]) -> RunSettings:
    """Settings from options; the toy world has defaults of its own."""
    changes = dict(given)
    if "checkpoint" not in changes:
        raise ValueError(f'Which checkpoint? Give --checkpoint, a path or "{TOYWORLD}".')
    for name, option in (("identities", "--identity"), ("references", "--references")):
        if name in changes:
            changes[name] = _pairs(changes[name], option)
    if "loras" in changes:
        changes["loras"] = tuple(_lora(text) for text in changes["loras"])
    if changes["checkpoint"] == TOYWORLD:
        return toyworld_settings(**changes)
    return RunSettings(**changes)


def with_story_references(given: Mapping[str, Any], story: "Story", folder: Path) -> dict[str, Any]:
    """Options, with the story's own reference pictures for an adapter where the options name none of a character.

    Args:
        given: The options.
        story: Its `reference_images` are paths from `folder`.
        folder: Where the story file lies.
    """
    changes = dict(given)
    if "adapter" in changes:
        texts = list(changes.get("references", []))
        named = {text.partition("=")[0] for text in texts}
        own = [(each.name, folder / path) for each in story.characters for path in each.reference_images]
        texts += [f"{name}={path}" for name, path in own if name not in named]
        changes["references"] = texts
    return changes


def check_identity_file(path: Path) -> None:
    """Refuse to write an identity where there is something else; an earlier identity is replaced."""
    from ..core.identity import Identity

    if path.is_dir():
        raise ValueError(f"--out is {shown(path)}, which is a folder; name the identity file to write.")
    if path.exists():
        try:
            Identity.load(path)
        except ValueError as error:
            raise ValueError(f"{shown(path)} is there and is no identity file; choose another name.") from error


def _pairs(texts: Sequence[str], option: str) -> tuple[tuple[str, str], ...]:
    pairs = []
    for text in texts:
        name, sign, path = text.partition("=")
        if not (name and sign and path):
            raise ValueError(f"{option} takes NAME=FILE, not {quote(text)}.")
        pairs.append((name, path))
    return tuple(pairs)


def _lora(text: str) -> tuple[str, float]:
    """A file and its strength; a colon that is part of the path, as after a drive letter, stays there."""
    path, _, strength = text.rpartition(":")
    try:
        return (path, float(strength)) if path else (text, 1.0)
    except ValueError:
        return text, 1.0
