"""Tests may run in several processes (`pytest -n`), which share the processors."""

import os
from typing import Any

import pytest


def pytest_configure() -> None:
    """Let each process compute with its share of the processors. torch reads this when it is imported."""
    processes = os.environ.get("PYTEST_XDIST_WORKER_COUNT")
    if processes:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(processes))))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Share out `test_inside` by the files that it checks, each of which has a process of ComfyUI's Python anyway."""
    from xdist.scheduler import LoadFileScheduling

    class ByCheckedFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return nodeid.partition("-")[0] if file.endswith("test_inside.py") else file

    return ByCheckedFile(config, log) if config.getoption("dist") == "loadfile" else None
