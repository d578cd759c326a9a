"""The command: what is there is not done again, what does not fit is refused."""

import json

import pytest
import torch
import typer
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.lab.evaluation.__main__ import (
    FEWER,
    PROMPTS,
    STORYNIZOR,
    TOYWORLD,
    storynizor,
    toyworld,
)
from story_identity.lab.evaluation.figure import write_strip
from story_identity.lab.evaluation.folder import claim_folder, numbers_of, pictures_of
from story_identity.lab.evaluation.markdown import markers
from story_identity.lab.evaluation.tables import make_tables
from story_identity.lab.evaluation.variants import VARIANTS

from tests.lab.evaluation.test_tables import BEGIN, END, ROWS


@pytest.fixture
def finished(tmp_path):
    """A folder in which both stories are done."""
    out = tmp_path / "out"
    numbers_of(out, 0).parent.mkdir(parents=True)
    for row in ROWS:
        numbers_of(out, row["story"]).write_text(json.dumps(row))
        black = torch.zeros(TOY_WORLD.picture_side, TOY_WORLD.picture_side, 3)
        write_strip(pictures_of(out, row["story"]), {name: [black] * 4 for name in VARIANTS}, VARIANTS)
    (tmp_path / "page.md").write_text(f"before\n{BEGIN}{END}\nafter\n")
    return tmp_path


def test_finished_stories_are_only_told_of(finished):
    toyworld(finished / "out", stories=2, processes=2, page=finished / "page.md")
    assert (finished / "page.md").read_text() == f"before\n{BEGIN}\n{make_tables(ROWS)}\n{END}\nafter\n"
    assert (finished / "page_identity.png").is_file()
    lines = (finished / "out" / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == ROWS


def test_a_folder_belongs_to_one_set_of_weights_and_settings(tmp_path):
    claim_folder(tmp_path, {})
    claim_folder(tmp_path, {})
    made_with = json.loads((tmp_path / "settings.json").read_text())
    (tmp_path / "settings.json").write_text(json.dumps({**made_with, "cfg": 1.5, "checkpoint": {"content": "other"}}))
    with pytest.raises(ValueError, match='another "cfg", "checkpoint"; give another folder'):
        claim_folder(tmp_path, {})


@pytest.mark.parametrize("evaluation", [TOYWORLD, PROMPTS, FEWER, STORYNIZOR], ids=lambda each: each.name)
def test_an_evaluation_goes_on_in_its_own_folder(tmp_path, evaluation):
    claim_folder(tmp_path, evaluation.made_with)
    claim_folder(tmp_path, evaluation.made_with)


def test_a_folder_with_the_former_name_of_the_drawing_modes_goes_on(tmp_path):
    claim_folder(tmp_path, {"drawing_modes": [{"name": "off"}]})
    written = (tmp_path / "settings.json").read_text(encoding="utf-8")
    (tmp_path / "settings.json").write_text(written.replace('"drawing_modes"', '"ways"'), encoding="utf-8")
    claim_folder(tmp_path, {"drawing_modes": [{"name": "off"}]})
    with pytest.raises(ValueError, match='another "drawing_modes"; give another folder'):
        claim_folder(tmp_path, {"drawing_modes": [{"name": "on"}]})


@pytest.mark.parametrize("content", ["", "[", "[" * 100_000, "3", '{"a": 1', "\ud83d"])
@pytest.mark.parametrize("name", ["settings.json", "stories/0001.json"])
def test_damaged_records_are_named_before_anything_is_drawn(finished, name, content):
    (finished / "out" / name).write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(typer.BadParameter, match=f"{name} is (not valid JSON|no record of an evaluation).*delete it"):
        toyworld(finished / "out", stories=2, processes=1, page=finished / "page.md")


def test_a_byte_order_mark_is_no_damage(finished):
    for path in finished.rglob("*.json"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    toyworld(finished / "out", stories=2, processes=1, page=finished / "page.md")


def test_a_page_without_markers_is_refused_before_anything_is_drawn(tmp_path):
    with pytest.raises(typer.BadParameter, match="page.md needs the lines"):
        toyworld(tmp_path / "out", stories=2, processes=1, page=tmp_path / "page.md")
    assert not (tmp_path / "out").exists()


def test_a_folder_belongs_to_one_evaluation(tmp_path, finished):
    claim_folder(tmp_path / "out", TOYWORLD.made_with)
    (finished / "page.md").write_text("".join(markers("storynizor")))
    with pytest.raises(typer.BadParameter, match='another "drawing_modes", "drawn"; give another folder'):
        storynizor(tmp_path / "out", stories=2, processes=1, page=finished / "page.md")


def test_a_folder_from_before_a_variant_was_added_is_refused(finished):
    claim_folder(finished / "out", {})
    with pytest.raises(typer.BadParameter, match='another "drawn"; give another folder'):
        toyworld(finished / "out", stories=2, processes=1, page=finished / "page.md")


def test_tables_of_more_stories_are_not_replaced_by_fewer(finished):
    page = finished / "page.md"
    page.write_text(page.read_text().replace(BEGIN, f"{BEGIN}\n60 stories of 4 frames, and so on."))
    written = page.read_text()
    with pytest.raises(typer.BadParameter, match="page.md are of 60 stories, more than 2; measure at least as many"):
        toyworld(finished / "out", stories=2, processes=1, page=page)
    assert page.read_text() == written
    page.write_text(page.read_text().replace("60 stories", "2 stories"))
    toyworld(finished / "out", stories=2, processes=1, page=page)
    assert make_tables(ROWS) in page.read_text()
