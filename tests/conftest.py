"""Tests may run in several processes (`pytest -n`), which share the processors."""

import os

import pytest


def pytest_configure() -> None:
    """Let each process compute with its share of the processors. torch reads this when it is imported."""
    processes = os.environ.get("PYTEST_XDIST_WORKER_COUNT")
    if processes:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(processes))))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Group what `--dist loadgroup` leaves in one process and in its order: the tests of a file.

    Of `test_inside`, which has a process of ComfyUI's Python for each file it checks, the checks of such a file.
    """
    for item in items if config.pluginmanager.hasplugin("xdist") else []:
        parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        checked = parameters.get("file", "") if item.path.name == "test_inside.py" else ""
        item.add_marker(pytest.mark.xdist_group(f"{item.path}{checked}"))
