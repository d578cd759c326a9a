"""The command `story-identity verify`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .benchmark_command import SCORES
from .option_values import TOYWORLD
from .score_command import FACES
from .terminal import plain_errors, progress, quiet_imports, say, shown

if TYPE_CHECKING:
    from .run_settings import RunSettings
    from .verification import Verification

_STORIES = 10
_FROM_WORKFLOW = {"checkpoints": "checkpoint", "photomaker": "photomaker"}


@options.with_run_options
def verify(
    out: options.OutFolder,
    workflow: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Check the files that a workflow of the editor lists.")
    ] = None,
    models_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="ComfyUI's models folder.")] = None,
    benchmark: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help=f"Draw and score the first {_STORIES} stories of ConsiStory-Human too."),
    ] = None,
    encoders: Annotated[str, typer.Option(metavar=TOYWORLD, rich_help_panel=SCORES, help="The toy world's.")] = "",
    clip: Annotated[str, typer.Option(metavar="FOLDER", rich_help_panel=SCORES, help="A folder of CLIP.")] = "",
    dino: Annotated[str, typer.Option(metavar="FOLDER", rich_help_panel=SCORES, help="A folder of DINO.")] = "",
    faces: Annotated[str, typer.Option(metavar="ENGINE[=FOLDER]", rich_help_panel=SCORES, help=FACES)] = "",
    **given: Any,
) -> None:
    """Check the files that a workflow needs, run two steps of everything, and write a report for an issue.

    Names, sizes and hashes are compared with the pack's list; then two steps of each pass and of AMSA are run with
    --checkpoint and the other options of `run`, at --width and --height. The report is a folder: report.md, report.json
    and pictures. Exit status 1 if something is wrong.
    """
    quiet_imports()
    with plain_errors():
        from .verification import Verification, check_run_files, try_out
        from .verification_report import summary, write_report

        result, chosen = Verification(), options.given_settings(given)
        if workflow is not None:
            chosen = {**_from_workflow(result, workflow, models_dir), **chosen}
        settings = _settings(chosen)
        if workflow is None and settings is None:
            raise ValueError("What is to be verified? Give --workflow FILE, or --checkpoint and the options of `run`.")
        scoring = {"encoders": encoders, "clip": clip, "dino": dino, "faces": faces}
        plan, stories = _benchmark(benchmark, settings, scoring)
        lines = None
        with progress() as report:
            if settings is not None:
                result.files += [each for each in check_run_files(settings) if not _is_known(result, each.name)]
                tried = try_out(settings, report)
                result.stages, result.pictures = tried.stages, tried.pictures
            if plan is not None and result.is_sound:
                lines = _run_benchmark(plan, stories, out / "benchmark", report)
        write_report(out, result, settings, lines)
        for line in summary(result):
            say(line)
        say(f"The report is {shown(out / 'report.md')}")
    if not result.is_sound:
        raise typer.Exit(1)


def _from_workflow(result: "Verification", workflow: Path, models_dir: Path | None) -> dict[str, Any]:
    """Check a workflow's files; gives the checkpoint and the PhotoMaker file among them, as options."""
    from ..core.weights_cli import models_folder
    from .verification import check_workflow_files, models_of_workflow

    checks = check_workflow_files(models_of_workflow(workflow), models_folder(models_dir))
    result.files += [check for check, _ in checks.values()]
    found: dict[str, Any] = {}
    for name, (check, path) in checks.items():
        option = _FROM_WORKFLOW.get(name.split("/")[0])
        if option and not check.problem:
            found.setdefault(option, str(path))
    return found


def _is_known(result: "Verification", name: str) -> bool:
    return any(each.name.rsplit("/", 1)[-1] == name for each in result.files)


def _settings(chosen: Mapping[str, Any]) -> "RunSettings | None":
    """Settings to run with; frames are drawn together where there is no PhotoMaker, so that settings need none."""
    from .cli import settings_from

    if "checkpoint" not in chosen:
        return None
    if chosen["checkpoint"] == TOYWORLD or "photomaker" in chosen:
        return settings_from(chosen)
    return settings_from({**chosen, "together": True})


def _benchmark(
    folder: Path | None, settings: "RunSettings | None", scoring: Mapping[str, str]
) -> tuple[Any, Sequence[Any]]:
    """The plan of the benchmark, with its stories; none if it was not asked for."""
    from .benchmark import Plan
    from .benchmark_stories import CONSISTORY_HUMAN, open_set
    from .scoring import ScoreSettings

    if folder is None:
        return None, ()
    if settings is None:
        raise ValueError("--benchmark draws stories: give --checkpoint and the other options of `run`.")
    detector = {name: getattr(settings, name) for name in ("grounding_dino", "sam", "bert", "device")}
    scores = ScoreSettings(**scoring, **({} if scoring["encoders"] else detector))
    return Plan(CONSISTORY_HUMAN, scores, settings), open_set(CONSISTORY_HUMAN, folder, _STORIES)


def _run_benchmark(plan: Any, stories: Sequence[Any], out: Path, report: Any) -> list[list[str]]:
    from .benchmark import run_benchmark
    from .benchmark_tables import table_rows, write_results

    numbers = run_benchmark(plan, stories, out, report)
    write_results(out, plan.benchmark, numbers, plan.record())
    return table_rows(plan.benchmark, numbers)
