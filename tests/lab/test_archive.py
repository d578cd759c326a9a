"""What the registry ships: the nodes and what they use, and next to nothing else."""

import zipfile
from pathlib import Path

import pytest
from story_identity.lab.archive import is_in_git, lines_used, shipped_files, write_archive

ROOT = Path(__file__).absolute().parents[2]
LEAST_USED = 0.85

pytestmark = pytest.mark.skipif(not is_in_git(), reason="the pack does not lie in a git repository")


def test_the_nodes_use_nearly_all_code_that_is_shipped():
    used, shipped = lines_used()
    assert 5000 < used <= shipped
    assert used / shipped >= LEAST_USED


def test_nothing_of_the_laboratory_the_command_line_or_the_tests_is_shipped():
    folders = {file.parts[0] for file in shipped_files() if len(file.parts) > 1}
    assert folders == {"core", "docs", "locales", "nodes", "subgraphs", "web", "workflows"}


def test_all_that_the_nodes_need_is_shipped():
    shipped = {file.as_posix() for file in shipped_files()}
    assert shipped >= {"__init__.py", "models.json", "pyproject.toml", "requirements.txt", "LICENSE", "README.md"}
    for folder in ("core", "locales", "nodes", "web", "workflows"):
        found = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*") if path.is_file()}
        assert {name for name in found if "__pycache__" not in name} <= shipped


def test_the_archive_has_just_these_files(tmp_path):
    write_archive(tmp_path / "archive.zip")
    with zipfile.ZipFile(tmp_path / "archive.zip") as archive:
        assert archive.testzip() is None
        assert sorted(map(Path, archive.namelist())) == shipped_files()
