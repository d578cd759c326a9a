"""The command `story-identity score`."""

from pathlib import Path
from typing import Annotated

import typer

from .option_values import TOYWORLD
from .terminal import plain_errors, progress, quiet_imports, say, shown

FACES = "Face-Sim by dlib, sface=FOLDER, auraface=FOLDER or insightface=FOLDER (research only)."

Quality = Annotated[
    str,
    typer.Option(metavar="qalign", help="Q-Align by pyiqa: non-commercial, and it fetches 15 GB on first use."),
]
JudgeAddress = Annotated[
    str,
    typer.Option(
        metavar="URL",
        help="A model as a judge: an address such as https://host/v1 that speaks OpenAI's chat protocol. The pictures "
        "are sent there. Its key is read from STORY_IDENTITY_JUDGE_KEY.",
    ),
]
JudgeModel = Annotated[str, typer.Option(metavar="NAME", help="The judge, as the endpoint calls it.")]


def score(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of a run, or of pictures of a story.")],
    story: Annotated[Path | None, typer.Option(metavar="FILE", help="The story, if the folder is not a run's.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the files go. Default: FOLDER/scores.")] = None,
    encoders: Annotated[str, typer.Option(metavar=TOYWORLD, help="Measure with the toy world's own networks.")] = "",
    clip: Annotated[str, typer.Option(metavar="FOLDER", help="CLIP-T, CLIP-T-C, CLIP-I: a folder of CLIP.")] = "",
    dino: Annotated[str, typer.Option(metavar="FOLDER", help="DINO-I: a folder of DINOv2 or DINOv3.")] = "",
    faces: Annotated[str, typer.Option(metavar="ENGINE[=FOLDER]", help=FACES)] = "",
    reference: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="Face-Sim(R): a picture of a character's face; may be repeated."),
    ] = None,
    masks: Annotated[str, typer.Option(metavar="DIR", help="Mask files that say who is where, as a run's.")] = "",
    grounding_dino: Annotated[str, typer.Option(metavar="FILE", help="Finds the characters, with --sam.")] = "",
    sam: Annotated[str, typer.Option(metavar="FILE", help="Cuts the characters out.")] = "",
    bert: Annotated[str, typer.Option(metavar="DIR", help="The tokenizer of bert-base-uncased.")] = "",
    device: Annotated[str, typer.Option(help="Where CLIP, DINO and detectors run: cpu or cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(min=0, help="Of the resamples of the intervals.")] = 0,
    quality: Quality = "",
    judge: JudgeAddress = "",
    judge_model: JudgeModel = "",
) -> None:
    """Measure the pictures of a story: the papers' scores, per frame and character.

    Writes scores.json, scores.csv, likeness.png and scores.html. Nothing is downloaded: encoders are read from local
    folders, and dlib's recogniser comes with its packages. Who is where is taken from --masks, a detector, or the masks
    of the run.
    """
    quiet_imports()
    with plain_errors():
        from ..core.encoders.quality import NOTICE
        from ..core.scores.report import as_text
        from .scoring import ScoreSettings, encoder_names, score_folder, threshold_of

        references = tuple(_pair(text) for text in reference or ())
        settings = ScoreSettings(
            encoders,
            clip,
            dino,
            faces,
            grounding_dino,
            sam,
            bert,
            masks,
            references,
            device,
            seed,
            quality,
            judge,
            judge_model,
        )
        place = out or folder / "scores"
        if quality:
            say(NOTICE, error=True)
        with progress() as report:
            scores, used, ratings = score_folder(folder, story, settings, place, report)
        say(as_text(scores, encoder_names(used).get("faces", ""), threshold_of(used)))
        for label, said in ratings.lines():
            say(f"{label:<40} {said}")
        say(f"The page is {shown(place / 'scores.html')}")


def _pair(text: str) -> tuple[str, str]:
    name, sign, path = text.partition("=")
    if not (name and sign and path):
        raise ValueError(f"--reference takes NAME=FILE, not {shown(Path(text))}.")
    return name, path
