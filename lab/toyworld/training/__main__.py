"""Train the toy world's networks, one after another or all of them (but for the transformer, which is done by name).

    python -m story_identity.lab.toyworld.training all
    python -m story_identity.lab.toyworld.training base --minutes 60 --device cuda
    python -m story_identity.lab.toyworld.training base --out weights_2 --continue-from weights_2

Every network continues from its newest checkpoint if there is one. The weights go into `--out`, with a card that says
how they were made.
"""

from pathlib import Path
from typing import Annotated

import typer

from ....core.quoting import quote
from ....core.toyworld.models import WEIGHTS
from .stages import STAGES, run_stage


def main(
    stage: Annotated[str, typer.Argument(help=f"{', '.join(STAGES)}, or all.")] = "all",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of weights, pictures and noise.")] = 0,
    minutes: Annotated[float, typer.Option(help="Time limit per network; 0 takes its own.")] = 0.0,
    work: Annotated[Path, typer.Option(help="Where checkpoints and rendered pictures are kept.")] = Path(
        "toyworld_training"
    ),
    out: Annotated[Path, typer.Option(help="Where the finished weights go.")] = WEIGHTS,
    continue_from: Annotated[
        Path | None, typer.Option(help="A folder of finished weights to begin with where there is no checkpoint.")
    ] = None,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the network: minutes at first, then steps an eighth shorter.")
    ] = False,
) -> None:
    """Train one network of the toy world, or all."""
    if stage != "all" and stage not in STAGES:
        raise typer.BadParameter(f"There is no stage {quote(stage)}. There are {', '.join(STAGES)}, and all.")
    usual = [name for name, each in STAGES.items() if not each.extra]
    for name in usual if stage == "all" else (stage,):
        try:
            chosen = {"device": device, "seed": seed, "minutes": minutes, "work": work, "out": out}
            run_stage(name, **chosen, start=continue_from, compile=compile)
        except (ValueError, OSError) as error:
            raise typer.BadParameter(str(error)) from error


if __name__ == "__main__":
    typer.run(main)
