"""Tests may run in several processes (`pytest -n`), which share the processors."""

import os


def pytest_configure() -> None:
    """Let each process compute with its share of the processors. torch reads this when it is imported."""
    processes = os.environ.get("PYTEST_XDIST_WORKER_COUNT")
    if processes:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(processes))))
