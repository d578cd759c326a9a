"""The command `story-identity build-storydb`. What takes long to import waits until it is needed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ...core.quoting import printable, quote
from ...headless.stopping import stoppable
from ...headless.terminal import plain_errors, quiet_libraries
from .settings import TOYWORLD_STORYDB, StoryDBSettings

if TYPE_CHECKING:
    from .measures import Measures

_SETTINGS = " ".join(
    f"{name} ({each.default}): {each.description}" for name, each in StoryDBSettings.model_fields.items()
)


def build_storydb(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="A folder with one folder of pictures per character.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the database goes; outside of SOURCE.")],
    toyworld: Annotated[bool, typer.Option("--toyworld", help="Use the toy world's models and thresholds.")] = False,
    grounding_dino: Annotated[Path | None, typer.Option(help="GroundingDINO's weights.")] = None,
    sam: Annotated[Path | None, typer.Option(help="SAM's weights.")] = None,
    bert: Annotated[Path | None, typer.Option(help="A folder with the tokenizer of bert-base-uncased.")] = None,
    faces: Annotated[
        Path | None, typer.Option(help="A folder of insightface's models; not for commercial use.")
    ] = None,
    clip: Annotated[Path | None, typer.Option(help="A folder of a CLIP model, as transformers keeps it.")] = None,
    aesthetic: Annotated[
        str, typer.Option(help="MODULE:FUNCTION, of a picture (h w 3) in [0, 1], gives a score.")
    ] = "",
    captioner: Annotated[str, typer.Option(help="MODULE:FUNCTION, of a list of paths, gives as many captions.")] = "",
    tokenizer: Annotated[Path | None, typer.Option(help="A tokenizer's folder; captions too long for it go.")] = None,
    device: Annotated[str, typer.Option(help='Where the models run: "cpu" or "cuda".')] = "cpu",
    setting: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help=_SETTINGS)] = None,
) -> None:
    """Make groups of pictures to train on, out of folders of pictures with captions. Nothing is downloaded.

    Captions are in a .txt of each picture's name or in a metadata.jsonl. Loose pictures in SOURCE are put together by
    face, or by CLIP. Run it again after changes: only what changed is processed again.
    """
    with plain_errors(), stoppable():
        quiet_libraries()
        settings = settings_from(setting or [], TOYWORLD_STORYDB if toyworld else {})
        from .build import build_storydb as build

        if toyworld:
            from .measures import toyworld_measures

            measures = toyworld_measures()
        else:
            files = {"grounding_dino": grounding_dino, "sam": sam, "bert": bert, "faces": faces, "clip": clip}
            measures = load_measures({**files, "tokenizer": tokenizer}, aesthetic, captioner, device)
        show(build(source, out, settings, measures))


def settings_from(given: Sequence[str], defaults: Mapping[str, Any]) -> StoryDBSettings:
    """Settings from NAME=VALUE; of words, VALUE has several with commas between.

    Raises:
        ValueError: If there is no such setting, or the value is of another kind or out of range.
    """
    known = {name: type(each.default) for name, each in StoryDBSettings.model_fields.items()}
    changes, given_names = dict(defaults), set()
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or name not in known:
            raise ValueError(f"--set takes NAME=VALUE, not {quote(text)}; there are {', '.join(known)}.")
        if name in given_names:
            raise ValueError(f"--set {name} is given twice.")
        given_names.add(name)
        try:
            words = tuple(word.strip() for word in value.split(",") if word.strip())
            changes[name] = words if known[name] is tuple else known[name](value)
        except ValueError as error:
            raise ValueError(f"--set {name}: {quote(value)} is no {known[name].__name__}.") from error
    return StoryDBSettings(**changes)


def load_measures(files: Mapping[str, Path | None], aesthetic: str, captioner: str, device: str) -> "Measures":
    """The models that a user names, by the option that names them; the detector's three files are needed.

    Raises:
        FileNotFoundError, ModuleNotFoundError, ValueError: For what is missing, or is something else.
    """
    from ...core.detectors.faces import load_face_recogniser
    from ...headless.detection import load_grounded_sam
    from ...headless.run_files import mark_of
    from .measures import MaskedFace, Measures, load_clip, named_callable

    paths = {name: path for name, path in files.items() if path is not None}
    missing = [f"--{name.replace('_', '-')}" for name in ("grounding_dino", "sam", "bert") if name not in paths]
    if missing:
        raise ValueError(f"Masks need a detector: give {', '.join(missing)} too (or --toyworld, for the toy world).")
    for name, path in paths.items():
        if not path.exists():
            raise FileNotFoundError(f"{name}: there is no {quote(str(path))}.")
    clip = load_clip(paths["clip"], device) if "clip" in paths else None
    tokenizer = None
    if "tokenizer" in paths:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(paths["tokenizer"], local_files_only=True)
    functions = {name: text for name, text in (("aesthetic", aesthetic), ("caption", captioner)) if text}
    return Measures(
        load_grounded_sam(paths["grounding_dino"], paths["sam"], paths["bert"], device),
        identity=MaskedFace(load_face_recogniser(paths["faces"])) if "faces" in paths else None,
        look=clip.look if clip else None,
        agreement=clip.agreement if clip else None,
        tokenizer=tokenizer,
        names={**{name: f"{path.name} {mark_of(path)}" for name, path in paths.items()}, **functions},
        **{name: named_callable(text) for name, text in functions.items()},
    )


def show(manifest: Mapping[str, Any]) -> None:
    """Every dropped picture with its reason, and how many are left."""
    console = Console(markup=False)
    drops, groups = manifest["drops"], manifest["groups"]
    if drops:
        table = Table("picture", "reason", "why")
        for drop in drops:
            table.add_row(*(printable(drop[part]) for part in ("file", "reason", "detail")))
        console.print(table)
    pictures = sum(len(group["pictures"]) for group in groups)
    console.print(f"{len(groups)} groups of {pictures} pictures; {len(drops)} pictures dropped")
