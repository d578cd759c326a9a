"""Measure again what the pages in `docs/evidence` say of the toy world.

    python -m story_identity.lab.evaluation toyworld --stories 60 --out evaluation --processes 2
    python -m story_identity.lab.evaluation discovery --stories 60 --out evaluation_discovery --processes 2
    python -m story_identity.lab.evaluation prompts --stories 60 --out evaluation_prompts --processes 2
    python -m story_identity.lab.evaluation fewer-evaluations --stories 60 --out evaluation_fewer --processes 2
    python -m story_identity.lab.evaluation storynizor --stories 60 --out evaluation_storynizor --processes 2
    python -m story_identity.lab.evaluation training --stories 60 --out evaluation_training --processes 2
    python -m story_identity.lab.evaluation transformer --stories 60 --out evaluation_transformer --processes 2
    python -m story_identity.lab.evaluation score-report --stories 60 --out evaluation_report
    python -m story_identity.lab.evaluation takes --stories 60 --out evaluation_takes

Every story is a file in `--out`; stories that are there are not done again. A folder belongs to one evaluation and one
set of weights.
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ...core.guidance import TEMPLATES
from ...core.story import CHARACTER, FRAME
from ...core.toyworld.models import WEIGHTS
from ...core.toyworld.transformer import TRANSFORMER_WEIGHTS
from ...headless.run_files import mark_of
from . import best_of_takes as of_takes
from . import discovery as of_discovery
from . import fewer_evaluations as of_fewer
from . import identitystory as of_toyworld
from . import prompts as of_prompts
from . import score_report as of_report
from . import storynizor as of_storynizor
from . import storynizor_tables, tables, training_tables
from . import training as of_training
from . import transformer as of_transformer
from .drawing_modes import DRAWING_MODES, OFF, ON
from .figure import Figure
from .folder import Evaluation, check_done, check_settings, claim_folder, evaluate
from .markdown import check_stories
from .variants import DIRECT, TEMPLATE, VARIANTS

IDENTITY_FIGURE = Figure(
    "identity",
    rows=VARIANTS,
    columns={
        TEMPLATE: "base model", "mean": "mean of portraits", "discovered": "discovered", "true": "true identity",
        DIRECT: "direct",
    },
    across=2,
    stories=(0, 1, 2, 4),
)  # fmt: skip
TOYWORLD = Evaluation(
    "toyworld",
    of_toyworld.open_measure,
    tables.make_tables,
    IDENTITY_FIGURE,
    reported="discovered",
    made_with={"drawn": list(VARIANTS)},
)

DISCOVERY_FIGURE = Figure("discovery", rows=of_discovery.SOURCES, columns={}, across=2, stories=())
DISCOVERY = Evaluation(
    "discovery",
    of_discovery.open_measure,
    of_discovery.make_tables,
    DISCOVERY_FIGURE,
    reported=of_discovery.REPORTED,
    made_with={"drawn": list(of_discovery.SOURCES), "pictures": of_discovery.PICTURES, "steps": of_discovery.STEPS},
)

PROMPTS_FIGURE = Figure(
    "prompts",
    rows=of_prompts.DRAWINGS,
    columns={TEMPLATE: "base model", FRAME: "the frame's prompt", CHARACTER: "the character's description"},
    across=4,
    stories=(0, 1, 2, 5),
)
PROMPTS = Evaluation("prompts", of_prompts.open_measure, of_prompts.make_tables, PROMPTS_FIGURE, reported=CHARACTER)

FEWER_FIGURE = Figure(
    "fewer_evaluations",
    rows=of_fewer.DRAWINGS,
    columns={name: name for name in of_fewer.DRAWINGS},
    across=4,
    stories=(0, 1, 2, 5),
)
FEWER = Evaluation(
    "fewer-evaluations",
    of_fewer.open_measure,
    of_fewer.make_tables,
    FEWER_FIGURE,
    reported=TEMPLATES,
    made_with={"drawing_modes": of_fewer.WAYS},
)

STORYNIZOR_FIGURE = Figure(
    "together",
    rows=tuple(mode.name for mode in DRAWING_MODES),
    columns={"off": "every frame by itself", "on": "frames that see each other's people (AMSA)"},
    across=4,
    stories=(0, 1, 2, 4, 5),
)
STORYNIZOR = Evaluation(
    "storynizor",
    of_storynizor.open_measure,
    storynizor_tables.make_tables,
    STORYNIZOR_FIGURE,
    reported="on",
    made_with={"drawing_modes": [{"name": mode.name, "sharing": asdict(mode.sharing)} for mode in DRAWING_MODES]},
)

TRAINING_FIGURE = Figure(
    "trained",
    rows=(of_training.REFERENCES, *(mode.name for mode in of_training.DRAWING_MODES)),
    columns={
        OFF: "AMSA off",
        ON: "AMSA on",
        of_training.ON_WITH: "on, synchronizer",
        of_training.REFERENCES: "references (drawn)",
        "shuffled": "shuffled references",
        "stacked": "stacked references",
    },
    across=2,
    stories=(0, 1, 2, 4, 5),
)

TRANSFORMER_FIGURE = Figure(
    "drawn",
    rows=of_transformer.VARIANTS,
    columns={
        TEMPLATE: "the transformer alone",
        of_transformer.FIRST: "first portrait",
        of_transformer.DISCOVERED: "discovered portrait",
        of_transformer.TRUE: "true person",
        ON: "AMSA",
    },
    across=2,
    stories=(0, 1, 2, 4),
)

REPORT_FIGURE = Figure("score_report", rows=of_report.MODES, columns={}, across=2, stories=())
TAKES_FIGURE = Figure("takes", rows=of_takes.CHOICES, columns={}, across=2, stories=())

Out = Annotated[Path, typer.Option(help="Folder for the numbers and pictures of each story.")]
Stories = Annotated[int, typer.Option(min=2, help="How many stories; a third of them have two people.")]
Processes = Annotated[int, typer.Option(min=1, help="How many work on them, each on one CPU thread.")]
Kept = Annotated[
    Path | None, typer.Option(metavar="DIR", help="A folder of that evaluation: its pictures are scored, not drawn.")
]
Takes = Annotated[int, typer.Option("--takes", min=2, max=of_takes.MOST, help="How many takes of every frame.")]
Weights = Annotated[
    Path, typer.Option(help="Folder of the trained weights: two synchronizers, an injector or several.")
]
Page = Annotated[
    Path, typer.Option(help="The page whose tables are filled in, unless they are of more; the figure goes beside it.")
]
_PAGES = Path("docs/evidence")
_IDENTITYSTORY, _STORYNIZOR, _TRAINING, _TRANSFORMER = (
    _PAGES / f"{name}.md" for name in ("identitystory", "storynizor", "training", "transformer")
)

app = typer.Typer(add_completion=False)


@app.callback()
def main() -> None:
    """Measure what the documentation claims."""


@app.command()
def toyworld(out: Out, stories: Stories = 60, processes: Processes = 1, page: Page = _IDENTITYSTORY) -> None:
    """Draw stories of the toy world in every variant, measure them, and write the tables and the figure."""
    _run(TOYWORLD, out, stories, processes, page)


@app.command()
def discovery(out: Out, stories: Stories = 60, processes: Processes = 1, page: Page = _IDENTITYSTORY) -> None:
    """Draw the identities that discovery finds with several ranks and rounds, and write the table."""
    _run(DISCOVERY, out, stories, processes, page)


@app.command()
def prompts(out: Out, stories: Stories = 60, processes: Processes = 1, page: Page = _IDENTITYSTORY) -> None:
    """Re-denoise from the frame's prompt and from the character's description, and write the tables and the figure."""
    _run(PROMPTS, out, stories, processes, page)


@app.command()
def fewer_evaluations(out: Out, stories: Stories = 60, processes: Processes = 1, page: Page = _IDENTITYSTORY) -> None:
    """Draw stories with fewer evaluations of the networks, measure them, and write the tables and the figure."""
    _run(FEWER, out, stories, processes, page)


@app.command()
def storynizor(out: Out, stories: Stories = 60, processes: Processes = 1, page: Page = _STORYNIZOR) -> None:
    """Draw the frames of stories by themselves and together, measure them, and write the tables and the figure."""
    _run(STORYNIZOR, out, stories, processes, page)


@app.command()
def training(
    out: Out, stories: Stories = 60, processes: Processes = 1, page: Page = _TRAINING, weights: Weights = WEIGHTS
) -> None:
    """Draw stories with what training made and without, measure them, and write the tables and the figure."""
    try:
        made_with = of_training.made_with(weights)
    except FileNotFoundError as error:
        raise typer.BadParameter(str(error)) from error
    _run(
        Evaluation(
            "training",
            partial(of_training.open_measure, weights),
            training_tables.make_tables,
            TRAINING_FIGURE,
            reported=of_training.ON_WITH,
            made_with=made_with,
        ),
        out,
        stories,
        processes,
        page,
    )


@app.command()
def transformer(out: Out, stories: Stories = 60, processes: Processes = 1, page: Page = _TRANSFORMER) -> None:
    """Draw stories by the diffusion transformer, measure them, and write the tables and the figure."""
    _run(
        Evaluation(
            "transformer",
            of_transformer.open_measure,
            of_transformer.make_tables,
            TRANSFORMER_FIGURE,
            reported=of_transformer.DISCOVERED,
            made_with={"transformer": mark_of(TRANSFORMER_WEIGHTS), **of_transformer.MADE_WITH},
        ),
        out,
        stories,
        processes,
        page,
    )


@app.command()
def score_report(
    out: Out,
    stories: Stories = 60,
    processes: Processes = 1,
    page: Page = _IDENTITYSTORY,
    toyworld: Kept = None,
    storynizor: Kept = None,
) -> None:
    """Score stories as Score Story does, drawn in several ways or taken from folders, and write the tables."""
    try:
        if toyworld is not None:
            check_settings(toyworld, TOYWORLD.made_with)
        if storynizor is not None:
            check_settings(storynizor, STORYNIZOR.made_with)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    measure = partial(of_report.open_measure, of_report.KeptFolders(toyworld, storynizor))
    evaluation = Evaluation("score_report", measure, of_report.make_tables, REPORT_FIGURE, reported="discovered")
    _run(evaluation, out, stories, processes, page)


@app.command()
def takes(
    out: Out, stories: Stories = 60, processes: Processes = 1, page: Page = _IDENTITYSTORY, number: Takes = 4
) -> None:
    """Draw every frame several times, keep one of the takes by faces or by words, and write the tables."""
    evaluation = Evaluation(
        "takes",
        partial(of_takes.open_measure, number),
        partial(of_takes.make_tables, number),
        TAKES_FIGURE,
        reported=of_takes.BEST,
        made_with={"takes": number},
    )
    _run(evaluation, out, stories, processes, page)


def _run(evaluation: Evaluation, out: Path, stories: int, processes: int, page: Path) -> None:
    try:
        check_stories(page, evaluation.name, stories)
        claim_folder(out, evaluation.made_with)
        check_done(out, stories)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    evaluate(evaluation, out, stories, processes, page)
    typer.echo(f"{page}: {stories} stories")


if __name__ == "__main__":
    app()
