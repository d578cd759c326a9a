"""The stories of the evaluations by the report's functions: drawn or read from folders, one number for one picture."""

import json

import pytest
import torch
import typer
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.lab.evaluation.__main__ import (
    IDENTITY_FIGURE,
    STORYNIZOR,
    STORYNIZOR_FIGURE,
    TOYWORLD,
    score_report,
)
from story_identity.lab.evaluation.drawing_modes import ON
from story_identity.lab.evaluation.figure import read_strip, write_strip
from story_identity.lab.evaluation.folder import claim_folder, pictures_of
from story_identity.lab.evaluation.identitystory import DRAWN, OTHERS
from story_identity.lab.evaluation.score_report import MODES, KeptFolders, as_written, make_tables, measure_story
from story_identity.lab.evaluation.stories import FRAMES
from story_identity.lab.evaluation.variants import TEMPLATE

from tests.lab.evaluation.small import STORY


def noise(seed):
    side = TOY_WORLD.picture_side
    return [torch.rand(side, side, 3, generator=torch.Generator().manual_seed(seed + n)) for n in range(FRAMES)]


def keep(folder, evaluation, figure):
    """A folder as an evaluation leaves it, with pictures of noise."""
    claim_folder(folder, evaluation.made_with)
    pictures = {name: noise(100 * row) for row, name in enumerate(figure.rows)}
    pictures_of(folder, STORY).parent.mkdir()
    write_strip(pictures_of(folder, STORY), pictures, figure.rows)
    return {name: as_written(each) for name, each in pictures.items()}


def same(ones, others):
    return all(torch.equal(one, other) for one, other in zip(ones, others, strict=True))


def test_a_strip_gives_back_its_pictures(tmp_path):
    pictures = {"a": noise(1), "b": noise(5)}
    write_strip(tmp_path / "s.png", pictures, ("a", "b"))
    found = read_strip(tmp_path / "s.png", ("a", "b"))
    assert all(same(found[name], as_written(each)) for name, each in pictures.items())
    with pytest.raises(ValueError, match=r"s\.png does not hold 3 rows of 4 pictures"):
        read_strip(tmp_path / "s.png", ("a", "b", "c"))
    (tmp_path / "s.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"s\.png cannot be read as a picture"):
        read_strip(tmp_path / "s.png", ("a", "b"))


@pytest.mark.slow
def test_a_story_drawn_and_scored(instruments):
    row, pictures = measure_story(instruments, KeptFolders(), STORY)
    assert json.loads(json.dumps(row)) == row
    assert set(pictures) == {*MODES, OTHERS} == set(row["face_sim"])
    assert row["evaluations"] > 0
    for mode, images in pictures.items():
        assert same(images, as_written(images))
        assert row["face_sim"][mode] == pytest.approx(row["evaluated"][mode], abs=1e-6)
    assert not same(pictures[TEMPLATE], pictures[ON])
    assert "The evaluation's own order is the same." in make_tables([row, {**row, "story": 1}])


def test_pictures_of_folders_are_scored_and_nothing_is_drawn(instruments, tmp_path):
    of_toyworld = keep(tmp_path / "toyworld", TOYWORLD, IDENTITY_FIGURE)
    of_storynizor = keep(tmp_path / "storynizor", STORYNIZOR, STORYNIZOR_FIGURE)
    row, pictures = measure_story(instruments, KeptFolders(tmp_path / "toyworld", tmp_path / "storynizor"), STORY)
    assert row["evaluations"] == 0
    assert all(same(pictures[mode], of_toyworld[mode]) for mode in (TEMPLATE, "mean", "discovered"))
    assert same(pictures[ON], of_storynizor[ON])
    assert not same(pictures[DRAWN], pictures[OTHERS])


def test_folders_made_with_other_settings_are_refused(tmp_path):
    claim_folder(tmp_path / "kept", {"drawing_modes": []})
    page = tmp_path / "page.md"
    for options, message in (
        ({"toyworld": tmp_path}, "no folder of an evaluation: it has no settings.json"),
        ({"toyworld": tmp_path / "kept"}, 'made with another "drawing_modes"'),
    ):
        with pytest.raises(typer.BadParameter, match=message):
            score_report(tmp_path / "out", stories=2, processes=1, page=page, storynizor=None, **options)
    assert not (tmp_path / "out").exists()
