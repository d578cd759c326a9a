"""The pack as ComfyUI sees it: it loads in silence, and every node explains itself."""

import json
import re

import pytest

from .comfyui import REPOSITORY
from .server import PACK


def node_ids() -> list[str]:
    """The first column of the table of nodes in docs/architecture.md."""
    table = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `?(StoryIdentity\w+)`? \|", table, re.MULTILINE)


@pytest.fixture(scope="session")
def described(host) -> dict:
    """What ComfyUI says of this pack's nodes that a user sees, by id."""
    ours = {name: info for name, info in host.object_info().items() if PACK in info["python_module"]}
    return {name: info for name, info in ours.items() if not info.get("dev_only")}


def test_the_pack_loads_in_silence(host):
    start = host.log().partition("Starting server")[0]
    about = [line for line in start.splitlines() if re.search(f"{PACK}|story.?identity", line, re.IGNORECASE)]
    (imported,) = [line for line in about if "seconds" in line]
    assert "IMPORT FAILED" not in imported
    assert [line for line in about if line != imported and "Setting base directory" not in line] == []
    assert not re.search(r"Traceback|\[WARNING\]|\[ERROR\]|Cannot import|[a-z]Warning:", start), start


def test_the_nodes_are_those_of_the_documentation(described):
    assert sorted(described) == sorted(node_ids())


@pytest.mark.parametrize("node_id", node_ids())
def test_a_node_explains_itself(described, node_id):
    info = described[node_id]
    assert info["display_name"] != node_id
    assert info["category"].startswith("StoryIdentity")
    assert len(info["description"]) > 20
    inputs = {name: spec for part in ("required", "optional") for name, spec in info["input"].get(part, {}).items()}
    without = [name for name, spec in inputs.items() if len(spec) < 2 or not spec[1].get("tooltip")]
    assert not without, f"no tooltip: {without}"
    assert all(info["output_name"])


@pytest.mark.parametrize("node_id", node_ids())
def test_a_node_has_a_help_page_that_the_editor_finds(host, node_id):
    page = REPOSITORY / "web" / "docs" / f"{node_id}.md"
    assert page.is_file()
    assert host.read(f"/extensions/{PACK}/docs/{node_id}.md") == page.read_bytes()
    assert page.stat().st_size > 200


LANGUAGES = sorted(path.name for path in (REPOSITORY / "locales").iterdir())


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_editor_gets_the_translations(host, language):
    told = host.get("/i18n")[language]
    folder = REPOSITORY / "locales" / language
    nodes = json.loads((folder / "nodeDefs.json").read_text(encoding="utf-8"))
    assert {name: told["nodeDefs"][name] for name in nodes} == nodes
    for key, names in json.loads((folder / "main.json").read_text(encoding="utf-8")).items():
        assert {name: told[key][name] for name in names} == names


def test_translated_help_pages_are_where_the_editor_asks_for_them(host):
    pages = sorted((REPOSITORY / "web" / "docs").glob("*/*.md"))
    assert pages
    for page in pages:
        assert host.read(f"/extensions/{PACK}/docs/{page.parent.name}/{page.name}") == page.read_bytes()
