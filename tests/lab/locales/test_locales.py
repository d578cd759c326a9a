"""The translations are whole, true to the English texts, and what ComfyUI reads is made from them."""

import json
import re
from pathlib import Path

import pytest
from story_identity.lab.locales import __main__ as command
from story_identity.lab.locales import texts
from story_identity.lab.locales.faults import missing, stale, untrue
from story_identity.lab.locales.texts import (
    LANGUAGES,
    PACK,
    as_text,
    generated,
    help_pages,
    read_nodes,
    read_source,
    source_file,
)
from typer.testing import CliRunner

NODES = read_nodes()
MEND = "python -m story_identity.lab.locales says what to do"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_translated_and_nothing_else(language: str):
    translations = read_source(language)
    assert missing(NODES, translations) == [], MEND
    assert stale(NODES, translations) == [], MEND


@pytest.mark.parametrize("language", LANGUAGES)
def test_translations_keep_what_must_stay(language: str):
    assert list(untrue(NODES, language, read_source(language))) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_translators_file_is_sorted(language: str):
    assert source_file(language).read_text(encoding="utf-8") == as_text(dict(sorted(read_source(language).items())))


@pytest.mark.parametrize("language", LANGUAGES)
def test_two_nodes_or_inputs_do_not_look_alike(language: str):
    translations = read_source(language)
    names = [translations[node["display_name"]] for node in NODES.values()]
    assert len(set(names)) == len(names)
    for node in NODES.values():
        for sockets in (node["inputs"], node["outputs"]):
            shown = [translations[each["name"]] for each in sockets]
            assert len(set(shown)) == len(shown)


def test_what_comfyui_reads_is_current():
    files = generated(NODES)
    folders = PACK / "locales", PACK / "web" / "docs"
    found = {path for folder in folders for path in folder.glob("*/*") if path.is_file()}
    assert found == set(files)
    for path, text in files.items():
        assert path.read_text(encoding="utf-8") == text, MEND


def test_every_translators_file_belongs_to_a_language():
    assert {path.stem for path in texts.SOURCES.glob("*.json")} == set(LANGUAGES)


def test_sockets_are_where_the_editor_looks_for_them():
    defs = json.loads(generated(NODES, ("de",))[PACK / "locales" / "de" / "nodeDefs.json"])
    german = read_source("de")
    for name, node in NODES.items():
        assert defs[name]["display_name"] == german[node["display_name"]]
        assert defs[name]["description"] == german[node["description"]]
        for each in node["inputs"]:
            assert defs[name]["inputs"][each["name"]]["name"] == german[each["name"]]
        for place, each in enumerate(node["outputs"]):
            assert defs[name]["outputs"][str(place)]["tooltip"] == german[each["tooltip"]]


@pytest.mark.parametrize("page", [page for language in LANGUAGES for page in help_pages(language)], ids=str)
def test_a_help_page_has_no_code_or_message_that_the_english_page_lacks(page: Path):
    """What is in backticks stays English: names in messages, values, messages. What is gone there is gone here."""
    english = page.parent.with_suffix(".md").read_text(encoding="utf-8").replace("\\|", "|")
    text = re.sub("<!-- (inputs|outputs) -->.*?<!-- /", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    codes = [block or code for block, code in re.findall("```(.*?)```|`([^`]+)`", text, re.DOTALL)]
    assert len(codes) > 3
    assert [code for code in codes if code not in english] == []
    assert len(re.findall("^## ", text, re.MULTILINE)) > 2


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Translators' files and the pack's folder are copies in an empty folder, with one language."""
    (tmp_path / "de.json").write_text(source_file("de").read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(texts, "SOURCES", tmp_path)
    monkeypatch.setattr(texts, "PACK", tmp_path)
    monkeypatch.setattr(command, "LANGUAGES", ("de",))
    monkeypatch.setattr(command, "generated", lambda nodes: generated(nodes, ("de",)))
    return tmp_path


def run(*words: str):
    app = command.typer.Typer()
    app.command()(command.main)
    return CliRunner().invoke(app, list(words))


def test_what_is_missing_can_be_filled_in_and_taken_over(elsewhere: Path):
    whole = read_source("de")
    texts.write_source("de", {**whole, "Story": "", "gone": "weg"})
    assert run().exit_code == 1
    printed = run("--missing", "de")
    assert json.loads(printed.stdout) == {"Story": ""}
    assert "gone" in printed.stderr
    assert "weg" in printed.stderr
    (elsewhere / "filled.txt").write_text('{"Story": "Erzählung"}', encoding="utf-8")
    answer = run("--add", "de", str(elsewhere / "filled.txt"))
    assert answer.exit_code == 0, answer.output
    assert read_source("de") == {**whole, "Story": "Erzählung"}
    shown = json.loads((elsewhere / "locales" / "de" / "nodeDefs.json").read_text(encoding="utf-8"))
    assert shown["StoryIdentityStory"]["display_name"] == "Erzählung"


@pytest.mark.parametrize("content", ["{", "[]", '{"Story": 1}'])
def test_a_file_of_another_kind_is_refused_by_name(elsewhere: Path, content: str):
    (elsewhere / "filled.txt").write_text(content, encoding="utf-8")
    answer = run("--add", "de", str(elsewhere / "filled.txt"))
    assert answer.exit_code == 2
    assert "filled.txt" in re.sub(r"[\s│]", "", answer.output)  # a long path goes over several lines of the box
