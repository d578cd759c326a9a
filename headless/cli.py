"""The command line `story-identity`. What takes long to import waits until a command needs it."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..core import weights_cli
from ..core.quoting import quote
from .option_values import TOYWORLD
from .run_settings import TOYWORLD_SETTINGS, RunSettings, settings_of, toyworld_settings
from .score_command import score
from .stopping import stoppable
from .terminal import plain_errors, progress, quiet_imports, quiet_libraries, say, shown

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Picture stories that keep their characters from frame to frame.",
)


def _path(text: str) -> Path:
    """A path that a user typed; an empty one, which Python takes for the current folder, is a mistake."""
    if not text:
        raise typer.BadParameter("it is empty; give a path.")
    return Path(text)


StoryFile = Annotated[
    Path, typer.Argument(metavar="STORY", help="A story file (JSON).", show_default=False, parser=_path)
]
OutFolder = Annotated[Path, typer.Option(metavar="DIR", help="Where the files go.", show_default=False, parser=_path)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start over: delete the files of the folder's run.")]


_REPEATED = {"loras": "--lora", "identities": "--identity"}
_SECOND_PASS = ("start", "max_kernel", "soft_edge", "identities", "checkpoint", "photomaker", "config")


def with_settings(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option per field of `RunSettings`, or per name given.

    Options that are not given do not arrive, so that defaults stay with the settings.
    """
    chosen = [each for each in dataclasses.fields(RunSettings) if not names or each.name in names]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command)
        own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
        options = [_option_of(each) for each in chosen]

        @functools.wraps(command)
        def call(**values: Any) -> None:
            given = {name: value for name, value in values.items() if value not in (None, [])}
            quiet_imports()
            with plain_errors():
                command(**given)

        parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own, *options)]
        call.__signature__ = signature.replace(parameters=parameters)  # pyright: ignore[reportAttributeAccessIssue]
        call.__annotations__ = {each.name: each.annotation for each in parameters}
        return call

    return decorate


def _option_of(setting: dataclasses.Field) -> inspect.Parameter:
    """A command line option for a field of `RunSettings`, without a default."""
    default = setting.default
    kinds = {bool: bool, int: int, float: float, tuple: list[str]}
    kind: Any = float if "float" in str(setting.type) and not isinstance(default, tuple) else None
    kind = kind or kinds.get(type(default), str)
    flag = _REPEATED.get(setting.name, f"--{setting.name.replace('_', '-')}")
    meaning, of_toyworld = setting.metadata["meaning"], TOYWORLD_SETTINGS.get(setting.name)
    if default not in (dataclasses.MISSING, "", (), False):
        meaning += f" Default: {default}"
        meaning += f" (toy world: {of_toyworld or 'none'})." if of_toyworld is not None else "."
    information = typer.Option(flag, help=meaning, show_default=False, rich_help_panel="Settings")
    return inspect.Parameter(
        setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, information]
    )


@app.command()
@with_settings()
def run(story: StoryFile, out: OutFolder, overwrite: Overwrite = False, **given: Any) -> None:
    """Make a story: an identity per character, then frame after frame. Stopped at any point, run it again to go on.

    Ctrl-C ends it with exit status 130, SIGTERM with 143. Files that are lost or damaged are made again.

    With --checkpoint toyworld, settings that are not given are those of the toy world. Several processes share the work
    under torchrun or accelerate launch: torchrun --nproc-per-node 2 -m -- story_identity.headless run
    STORY ...
    """
    from ..core.near_misses import unfound_names
    from ..core.story import Story
    from .run import run_story

    settings, loaded = settings_from(given), Story.load(story)
    for sentence in unfound_names(loaded):
        say(sentence, error=True)
    with progress() as report:
        folder = run_story(loaded, settings, out, overwrite=overwrite, report=report)
    for mask in folder.painted_masks(loaded):
        say(f"{shown(mask)} was painted in: it is kept, but not used here. `redenoise` uses it.", error=True)
    say(f"The story is in {shown(folder.root)}")


@app.command()
@with_settings()
def discover(
    story: StoryFile,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The identity file to write.", parser=_path)],
    character: Annotated[str, typer.Option(help="Whose identity to find; may be left out if there is only one.")] = "",
    **given: Any,
) -> None:
    """Find one character's identity from text alone, and save it for `run --identity NAME=FILE`."""
    from ..core.story import Story
    from .processes import cpu_threads
    from .studio import open_studio

    settings, loaded = settings_from(given), Story.load(story)
    check_identity_file(out)
    person = loaded.character(character)
    with cpu_threads(settings.threads), progress() as report:
        studio = open_studio(settings, settings.device)
        studio.check_portraits(person)
        first_seed = studio.first_portrait_seed(loaded.characters.index(person))
        identity, kept = studio.discover(person, first_seed, lambda pictures: None, report)
    identity.save(out)
    say(f"{quote(person.name)} is in {shown(out)}: the mean of {len(kept)} of {settings.portraits} portraits")


@app.command()
@with_settings(*_SECOND_PASS)
def redenoise(
    finished: Annotated[
        Path, typer.Argument(metavar="RUN", help="The folder of a finished run.", show_default=False, parser=_path)
    ],
    out: OutFolder,
    overwrite: Overwrite = False,
    **given: Any,
) -> None:
    """Do the second pass of a finished run again, with other settings of it, other identities, or painted masks.

    Identities and masks of the run are used as they are: a mask file painted in (0 is the background, n the nth
    character of the frame) counts. Templates are drawn again from their seeds, which gives the same ones. Give
    --checkpoint, --photomaker and --config if those files lie elsewhere now.
    """
    from .run import run_story
    from .run_folder import RunFolder, story_of

    folder = RunFolder(finished)
    manifest = folder.read_manifest()
    if manifest is None:
        raise FileNotFoundError(f"{shown(finished)} is no folder of a run: it has no manifest.json.")
    story = story_of(manifest)
    present = {person.name: folder.identity(person.name) for frame in story.frames for person in frame.cast}
    identities = {name: str(path) for name, path in present.items()} | dict(_pairs(given.pop("identities", [])))
    changes = {**given, "identities": tuple(identities.items()), "masks": str(folder.masks_folder)}
    with progress() as report:
        run_story(story, settings_of(manifest, **changes), out, overwrite=overwrite, report=report)
    say(f"The story is in {shown(out)}")


@app.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
def models(words: Annotated[list[str] | None, typer.Argument(metavar="list|check|download ID")] = None) -> None:
    """The weight files of the workflows: list, check, download ID."""
    with stoppable():
        status = weights_cli.main(words or ["--help"], "story-identity models")
    raise typer.Exit(status)


@app.command()
def demo(out: OutFolder = Path("demo"), overwrite: Overwrite = False) -> None:
    """Make a story of two people in the toy world, with a sheet and a page that show how it was made."""
    with plain_errors():
        quiet_libraries()
        from .demo import main

        with progress() as report:
            summary = main(out, overwrite, report)
    say(summary)


app.command()(score)


def settings_from(given: Mapping[str, Any]) -> RunSettings:
    """Settings from options; the toy world has defaults of its own."""
    changes = dict(given)
    if "checkpoint" not in changes:
        raise ValueError(f'Which checkpoint? Give --checkpoint, a path or "{TOYWORLD}".')
    if "identities" in changes:
        changes["identities"] = _pairs(changes["identities"])
    if "loras" in changes:
        changes["loras"] = tuple(_lora(text) for text in changes["loras"])
    if changes["checkpoint"] == TOYWORLD:
        return toyworld_settings(**changes)
    if "photomaker" not in changes:
        raise ValueError("Which PhotoMaker file? Give --photomaker, the path of photomaker-v1.bin.")
    return RunSettings(**changes)


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


def _pairs(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    pairs = []
    for text in texts:
        name, sign, path = text.partition("=")
        if not (name and sign and path):
            raise ValueError(f"--identity takes NAME=FILE, not {quote(text)}.")
        pairs.append((name, path))
    return tuple(pairs)


def _lora(text: str) -> tuple[str, float]:
    """A file and its strength; a colon that is part of the path, as after a drive letter, stays there."""
    path, _, strength = text.rpartition(":")
    try:
        return (path, float(strength)) if path else (text, 1.0)
    except ValueError:
        return text, 1.0
