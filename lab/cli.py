"""The whole command line `story-identity`: to the commands of `headless/cli.py` come training and StoryDB."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..headless.cli import app
from ..headless.stopping import stoppable
from ..headless.terminal import plain_errors, quiet_libraries, say
from .storydb.command import build_storydb

__all__ = ["app"]
TRAINING = "Training"


def _settings_file(names: str) -> Any:
    said = f"A settings file (TOML), or the name of one that comes with the pack: {names}. Paths in it start from the "
    return typer.Argument(metavar="SETTINGS", help=f"{said}current folder.", show_default=False)


SynchronizerFile = Annotated[Path, _settings_file("toyworld_synchronizer, synchronizer_sd15")]
InjectorFile = Annotated[Path, _settings_file("toyworld_injector_stage1, toyworld_injector_stage2, injector_sd15")]
TrainingOut = Annotated[str | None, typer.Option(metavar="DIR", help="In place of the file's out.")]
TrainingSteps = Annotated[int | None, typer.Option(help="In place of the file's steps.")]
TrainingDevice = Annotated[str | None, typer.Option(help="In place of the file's device: cpu or cuda.")]
Assignment = Annotated[
    str | None, typer.Option(help="In place of the file's references: shuffled, aligned, average or stacked.")
]
StartFile = Annotated[str | None, typer.Option(metavar="FILE", help="In place of the file's start: an adapter.")]
SynchronizerLora = Annotated[
    str | None, typer.Option(metavar="FILE", help="In place of the file's synchronizer, for stage 2.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what a step takes, in time and memory; write nothing.")]


@app.command(rich_help_panel=TRAINING)
def train_synchronizer(
    settings: SynchronizerFile,
    out: TrainingOut = None,
    steps: TrainingSteps = None,
    device: TrainingDevice = None,
    dry_run: DryRun = False,
) -> None:
    """Train a synchronizer (Storynizor): a LoRA with which a checkpoint draws frames that see each other's people.

    If it is stopped, run it again to continue from its newest checkpoint. For several GPUs or hosts: accelerate launch
    -m story_identity.lab train-synchronizer SETTINGS. For several processes on CPUs: torchrun
    --nproc-per-node 2 -m -- story_identity.lab ... (accelerate launch starts only one there, and does not say).
    """
    _train("synchronizer", settings, dry_run, out=out, steps=steps, device=device)


@app.command(rich_help_panel=TRAINING)
def train_injector(
    settings: InjectorFile,
    out: TrainingOut = None,
    steps: TrainingSteps = None,
    device: TrainingDevice = None,
    references: Assignment = None,
    start: StartFile = None,
    synchronizer: SynchronizerLora = None,
    dry_run: DryRun = False,
) -> None:
    """Train an ID injector (Storynizor), through which a checkpoint sees the faces of reference pictures.

    Stopping and several processes work as with train-synchronizer.
    """
    parts = {"references": references, "start": start, "synchronizer": synchronizer}
    _train("injector", settings, dry_run, out=out, steps=steps, device=device, **parts)


def _train(what: str, settings: Path, dry_run: bool, **changes: Any) -> None:
    with plain_errors():
        quiet_libraries()
        from .training.command import train

        given = {name: value for name, value in changes.items() if value is not None}
        with stoppable():
            said = train(what, settings, dry_run, given)
        if said:
            say(said)


app.command(rich_help_panel=TRAINING)(build_storydb)
