"""The command `story-identity benchmark`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from . import options
from .option_values import TOYWORLD
from .score_command import FACES, JudgeAddress, JudgeModel, Quality
from .terminal import plain_errors, progress, quiet_imports, say, shown

SCORES = "Scores"
_NAMES = "ConsiStory-Human or ViStoryBench."


@options.with_run_options
def benchmark(
    name: Annotated[str, typer.Argument(metavar="NAME", help=_NAMES, show_default=False)],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER_OF_STORIES", help="As published.", parser=options.path_of)],
    out: options.OutFolder,
    stories: Annotated[int | None, typer.Option(min=1, help="Only so many stories, the first by name.")] = None,
    images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Score these pictures, a folder per story, in place of drawing."),
    ] = None,
    encoders: Annotated[str, typer.Option(metavar=TOYWORLD, rich_help_panel=SCORES, help="The toy world's.")] = "",
    clip: Annotated[str, typer.Option(metavar="FOLDER", rich_help_panel=SCORES, help="A folder of CLIP.")] = "",
    dino: Annotated[str, typer.Option(metavar="FOLDER", rich_help_panel=SCORES, help="A folder of DINO.")] = "",
    faces: Annotated[str, typer.Option(metavar="ENGINE[=FOLDER]", rich_help_panel=SCORES, help=FACES)] = "",
    quality: Quality = "",
    judge: JudgeAddress = "",
    judge_model: JudgeModel = "",
    **given: Any,
) -> None:
    """Draw and score a whole set of stories; stopped at any point, run it again to go on.

    Prompts of ConsiStory-Human are built as the published code does. The table stands next to the rows that were
    published: results.json, results.csv and results.html in --out. The further options are those of `run`.
    """
    quiet_imports()
    with plain_errors():
        from .benchmark import run_benchmark
        from .benchmark_stories import open_set
        from .benchmark_tables import faces_line, table_rows, write_results

        opened = open_set(name, folder, stories)
        scoring = {"encoders": encoders, "clip": clip, "dino": dino, "faces": faces, "quality": quality}
        plan = _plan(name, images, {**scoring, "judge": judge, "judge_model": judge_model}, given)
        with progress() as report:
            numbers = run_benchmark(plan, opened, out, report)
        write_results(out, name, numbers, plan.record())
        for line in table_rows(name, numbers):
            say(" | ".join(line))
        if faces_line(numbers):
            say(faces_line(numbers))
        say(f"The page is {shown(out / 'results.html')}")


def _plan(name: str, images: Path | None, scoring: Mapping[str, str], given: Mapping[str, Any]) -> Any:
    """The settings of drawing and scoring; the detector of the one is that of the other."""
    from ..core.story import CHARACTER
    from .benchmark import Plan
    from .cli import settings_from
    from .scoring import ScoreSettings

    chosen = options.given_settings(given)
    detector = {key: chosen[key] for key in ("grounding_dino", "sam", "bert", "device") if key in chosen}
    scores = ScoreSettings(**scoring, **({} if scoring["encoders"] else detector))
    if images is not None:
        return Plan(name, scores, images=images)
    if "checkpoint" not in chosen:
        return Plan(name, scores)
    prompt = {} if chosen.get("together") else {"prompt": CHARACTER}
    return Plan(name, scores, settings_from({**prompt, **chosen}))
