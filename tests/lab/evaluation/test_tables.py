"""What is written: between the markers, and nowhere else."""

import numpy as np
import pytest
import torch
from PIL import Image
from story_identity.core.scores.statistics import Interval
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.lab.evaluation.__main__ import IDENTITY_FIGURE
from story_identity.lab.evaluation.figure import SCALE, Figure, write_figure, write_strip
from story_identity.lab.evaluation.markdown import find_markers, markers, show_interval, write_between_markers
from story_identity.lab.evaluation.tables import make_tables
from story_identity.lab.evaluation.variants import VARIANTS
from story_identity.lab.toyworld.probe import PERSON, SCENE

SIDE = TOY_WORLD.picture_side
CELL = SCALE * SIDE

BEGIN, END = markers("toyworld")
ROWS = (*VARIANTS, "drawn", "others")


def row(number, shift):
    agreement = dict.fromkeys((*SCENE, *PERSON, "scene", "person"), 0.5)
    identity = ("cohesion_all", "cohesion_kept", "cohesion_narrow", "cohesion_true", "faces_all", "faces_kept")
    identity += ("faces_narrow", "narrow_and_mean", "energy", "energy_narrow")
    background = {"latent_difference": 0.0, "psnr": 30.0, "covered": 0.4}
    return {
        "story": number,
        "people": ["a robot"] * (1 + number % 2),
        "prompts": ["a robot in a city"],
        "evaluations": 1500,
        "faces_wanted": 4,
        "identity": {**dict.fromkeys(identity, 0.25), "discovered_and_mean": 0.75},
        "face_sim": {**dict.fromkeys(ROWS, 0.5), "discovered": 0.5 + shift, "true": None},
        "faces": dict.fromkeys(ROWS, 3),
        "likeness": dict.fromkeys(ROWS, 0.125),
        "agreement": dict.fromkeys(ROWS, agreement),
        "background": {"latent_difference": None} if number else background,
        "edges": {
            "discovered": {"ghost": 0.01, "seam": 1.0},
            "fixed": {"ghost": 0.03, "seam": 4.0} if number else {},
            "large": {"ghost": 0.02, "seam": 2.0},
        },
    }


ROWS = [row(0, 0.25), row(1, 0.25)]


def test_everything_outside_the_markers_stays(tmp_path):
    page = tmp_path / "page.md"
    page.write_bytes(f"# Umlaut ä\n\n{BEGIN}\nold\n{END}\n\nlast line, no newline".encode())
    write_between_markers(page, "toyworld", "new\n\ntext")
    write_between_markers(page, "toyworld", "newer")
    assert page.read_bytes() == f"# Umlaut ä\n\n{BEGIN}\nnewer\n{END}\n\nlast line, no newline".encode()


@pytest.mark.parametrize("content", ["", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{BEGIN}{END}"])
def test_a_page_without_markers_is_refused_and_left_alone(tmp_path, content):
    page = tmp_path / "page.md"
    page.write_text(content)
    with pytest.raises(ValueError, match="page.md needs the lines"):
        write_between_markers(page, "toyworld", "text")
    assert page.read_text() == content
    with pytest.raises(ValueError, match="nothing.md"):
        find_markers(tmp_path / "nothing.md", "toyworld")


def test_evaluations_write_into_their_own_places(tmp_path):
    page = tmp_path / "page.md"
    other = "".join(markers("other"))
    page.write_text(f"{other}{BEGIN}{END}")
    write_between_markers(page, "toyworld", "text")
    assert page.read_text() == f"{other}{BEGIN}\ntext\n{END}"


def test_tables_hold_means_counts_and_paired_differences():
    text = make_tables(ROWS)
    assert "2 stories of 4 frames, 1 with one person and 1 with two; 3,000 UNet evaluations" in text
    assert "| re-denoised, discovered identity | 0.750 [0.750, 0.750] | 6 of 8 | 0.125" in text
    assert "| re-denoised, discovered identity − base model alone (the template) | +0.250 [+0.250, +0.250] |" in text
    assert "| re-denoised, true identity | – |" in text
    assert "| latent, largest difference in any frame | 0 |" in text
    means = "3.00 [3.00, 3.00] | 2.00 [2.00, 2.00] | 1.00 [1.00, 1.00]"
    assert f"| ghost, % of the old figure | {means} | −2.00 [−2.00, −2.00] | −1.00 [−1.00, −1.00] |" in text
    for table in text.split("\n\n")[1:]:
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_numbers_have_real_minus_signs():
    assert show_interval(Interval(-0.5, -1.25, 0.25, 3), 2, signed=True) == "−0.50 [−1.25, +0.25]"


def test_the_figure_shows_the_strips(tmp_path):
    levels = {name: 10 * number for number, name in enumerate(VARIANTS)}
    pictures = {name: [torch.full((SIDE, SIDE, 3), level / 255) for _ in range(4)] for name, level in levels.items()}
    write_strip(tmp_path / "one.png", pictures, VARIANTS)
    write_figure(tmp_path / "figure.png", IDENTITY_FIGURE, [tmp_path / "one.png"] * 2, ["a robot", "a girl"])
    with Image.open(tmp_path / "figure.png") as figure:
        pixels = np.asarray(figure.convert("RGB"))
    middle = pixels[52 + CELL]
    assert [int(middle[12 + CELL + (2 * CELL + 12) * column, 0]) for column in range(5)] == [
        levels[name] for name in ("template", "mean", "discovered", "true", "direct")
    ]


def test_a_figure_of_frames_in_a_line(tmp_path):
    shape = Figure("name", rows=("a", "b"), columns={"b": "second"}, across=4, stories=(0,))
    frames = [torch.full((SIDE, SIDE, 3), level / 255) for level in (10, 20, 30, 40)]
    write_strip(tmp_path / "one.png", {"b": frames, "a": [torch.ones(SIDE, SIDE, 3)] * 4}, shape.rows)
    write_figure(tmp_path / "figure.png", shape, [tmp_path / "one.png"], ["a robot"])
    with Image.open(tmp_path / "figure.png") as figure:
        pixels = np.asarray(figure.convert("RGB"))
    assert pixels.shape == (32 + CELL + 28, 12 + 4 * CELL + 12, 3)
    assert [int(pixels[100, 60 + CELL * frame, 0]) for frame in range(4)] == [10, 20, 30, 40]
