"""The report of `story-identity verify`: a folder to attach to an issue. It names files, not where they lie."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..core.atomic_files import atomic_write
from .run_files import write_json, write_picture
from .run_settings import RunSettings
from .verification import FileCheck, Stage, Verification

FORMAT = "story-identity-verification/1"
_PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft")
_SHOWN = ("width", "height", "sampler", "scheduler", "cfg", "device", "dtype", "seed")


def environment(device: str) -> dict[str, str]:
    """Versions, and what computes."""
    found = {"Python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    found["device"] = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    return found


def write_report(
    out: Path, result: Verification, settings: RunSettings | None, benchmark: Sequence[Sequence[str]] | None
) -> None:
    """Write report.md, report.json and the pictures.

    Args:
        out: The folder; made if need be.
        result: What was found.
        settings: With which the passes ran; None if they did not.
        benchmark: The lines of the benchmark's table, titles first; None if it was not run.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name, picture in result.pictures.items():
        write_picture(out / f"{name}.png", picture, {"verification": name})
    about = environment(settings.device if settings else "cpu")
    chosen = {} if settings is None else {name: getattr(settings, name) for name in _SHOWN}
    content = {
        "format": FORMAT,
        "environment": about,
        "settings": chosen,
        "files": [asdict(each) for each in result.files],
        "stages": [asdict(each) for each in result.stages],
        "pictures": [f"{name}.png" for name in result.pictures],
        "benchmark": None if benchmark is None else [list(line) for line in benchmark],
        "sound": result.is_sound,
    }
    write_json(out / "report.json", content)
    text = _markdown(result, about, chosen, benchmark)
    with atomic_write(out / "report.md") as temporary:
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))


def summary(result: Verification) -> list[str]:
    """A line per file and stage, for the terminal."""
    return [f"{each.name}: {_of_file(each)}" for each in result.files] + [
        f"{each.name}: {each.problem or f'{each.seconds:.1f} s, {each.evaluations} evaluations'}"
        for each in result.stages
    ]


def _markdown(
    result: Verification,
    about: Mapping[str, str],
    chosen: Mapping[str, Any],
    benchmark: Sequence[Sequence[str]] | None,
) -> str:
    parts = ["# Verification", "", "All is as it should be." if result.is_sound else "**There are problems.**", ""]
    parts += _table(("environment", ""), list(about.items()))
    if chosen:
        parts += _table(("setting", ""), [(name, str(value)) for name, value in chosen.items()])
    if result.files:
        files = [(each.name, "" if each.size is None else f"{each.size:,}", _of_file(each)) for each in result.files]
        parts += _table(("file", "bytes", "checked"), files)
    if result.stages:
        parts += _table(("stage", "seconds", "evaluations", "peak memory, MiB", "found"), map(_of_stage, result.stages))
    parts += [f"![{name}]({name}.png)" for name in result.pictures]
    if benchmark is not None:
        parts += ["", "## ConsiStory-Human", "", *_table(benchmark[0], benchmark[1:])]
    return "\n".join([*parts, ""])


def _of_file(check: FileCheck) -> str:
    return check.problem or ", ".join(check.checked) or "there; not one of the pack's list"


def _of_stage(stage: Stage) -> tuple[str, ...]:
    found = stage.problem or "; ".join(f"{name}: {value}" for name, value in stage.found.items())
    peak = "–" if stage.peak_mib is None else f"{stage.peak_mib:.0f}"
    return (stage.name, f"{stage.seconds:.2f}", str(stage.evaluations), peak, found)


def _table(titles: Sequence[str], rows: Any) -> list[str]:
    lines = [titles, ["---"] * len(titles), *rows]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines] + [""]
