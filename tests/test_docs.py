"""README.md and docs/: short enough, and every relative link, picture and named file of the pack exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LONGEST_README = 11_000
"""A newcomer reads all of it; what is longer belongs in docs/."""
FOLDERS = "core|docs|headless|lab|locales|nodes|subgraphs|tests|web|workflows"


def links(page: Path) -> list[str]:
    """The targets of all links and pictures of a page that are not addresses."""
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def headings(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    lines = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def named_paths(page: Path) -> set[str]:
    """The pack's files and folders that a page names as code, with or without a command around them."""
    spans = re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8"))
    pattern = rf"(?<![\w./])(?:{FOLDERS})/[\w./]*"
    return {path for span in spans for path in re.findall(pattern, span)}


def named_modules(page: Path) -> set[str]:
    """The pack's modules that a page names, such as `story_identity.lab`."""
    return set(
        re.findall(r"(?<=-m )story_identity(?:\.\w+)*|(?<=-m -- )story_identity(?:\.\w+)*", page.read_text("utf-8"))
    )


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= LONGEST_README


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_leads_to_a_file(page):
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in headings(file), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_file_and_module_that_a_page_names_exists(page):
    missing = {path for path in named_paths(page) if not (ROOT / path).exists()}
    for module in named_modules(page):
        path = ROOT.joinpath(*module.split(".")[1:])
        if not path.is_dir() and not path.with_suffix(".py").is_file():
            missing.add(module)
    assert missing == set()


def test_the_readme_leads_to_every_page_and_lists_every_workflow():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert {page.name for page in (ROOT / "docs").glob("*.md")} <= {
        Path(target).name for target in links(ROOT / "README.md")
    }
    details = {f"evidence/{page.name}" for page in (ROOT / "docs" / "evidence").glob("*.md")}
    assert details <= set(links(ROOT / "docs" / "evidence.md"))
    rows = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert rows == {path.stem for path in (ROOT / "workflows").glob("*.json")}


def test_there_is_nothing_to_install_with_pip_as_the_readme_says():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert all(not line.strip() or line.startswith("#") for line in lines)


def test_architecture_lists_every_module_of_core_headless_and_training():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for folder in ("core", "nodes/host", "headless", "lab/training", "lab/storydb"):
        names = {path.name for path in (ROOT / folder).glob("[!_]*.py")}
        assert names
        assert {name for name in names if name not in text} == set(), folder
