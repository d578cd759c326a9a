"""What the tests of the real host share. Without a ComfyUI they are skipped, and one line of the summary says so."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stand_ins.folder import write_all
from tests.stand_ins.pictures import write_pictures

from .comfyui import NOT_FOUND, NOTHING_TESTED, REPOSITORY, ComfyUI, find_comfyui
from .server import PACK, SHRINK, TRANSFORMERS, Host


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """End at once where COMFYUI_PATH is wrong, with one line in place of an error for each test."""
    if any("comfyui" in getattr(item, "fixturenames", ()) for item in items):
        try:
            find_comfyui()
        except ValueError as error:
            raise pytest.UsageError(str(error)) from error


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Give all tests skipped for want of a ComfyUI one place, since pytest prints a line for each place."""
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple) and NOTHING_TESTED in report.longrepr[2]:
        report.longrepr = (str(Path(__file__).parent), 0, report.longrepr[2])
    return report


@pytest.fixture(scope="session")
def comfyui() -> ComfyUI:
    found = find_comfyui()
    if found is None:
        pytest.skip(NOT_FOUND)
    if problem := found.problem():
        pytest.skip(problem)
    return found


@pytest.fixture(scope="session")
def host(comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A running server with this pack, the stand-in weights and a few pictures; one for the whole session."""
    small = {name: Path(__file__).parent / name for name in (SHRINK, TRANSFORMERS)}
    server = Host(comfyui, tmp_path_factory.mktemp("comfyui"), {PACK: REPOSITORY, **small})
    write_all(server.models_dir)
    write_pictures(server.input_dir)
    with server:
        yield server
