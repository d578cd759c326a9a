"""Run checks of one file inside the host's Python: `run.py CHECKS COMFYUI BASE_DIRECTORY REPORT [NAME ...]`.

A check is a function `check_*` without parameters that raises when something is wrong; without a NAME all are run.
REPORT becomes a JSON object of the checks' names, each with null or the traceback; what each took is printed.
"""

import importlib
import json
import sys
import time
import traceback
from pathlib import Path


def run(file: str, names: list[str]) -> dict[str, str | None]:
    import torch

    checks = importlib.import_module(file)
    results: dict[str, str | None] = {}
    for check in names or [name for name in vars(checks) if name.startswith("check_")]:
        start = time.monotonic()
        try:
            with torch.inference_mode():  # as the host's executor does for every node
                vars(checks)[check]()
            results[check] = None
        except Exception:
            results[check] = traceback.format_exc()
        print(f"{'failed' if results[check] else 'passed'} {time.monotonic() - start:6.1f} s  {check}", flush=True)
    return results


if __name__ == "__main__":
    checks, comfyui, base_directory, report = (Path(argument).absolute() for argument in sys.argv[1:5])
    names = sys.argv[5:]
    sys.argv[1:] = ["--cpu", "--base-directory", str(base_directory)]  # for the host, which reads them when imported
    sys.path.insert(1, str(comfyui))
    import setting  # noqa: F401 - prepares the host before anything of it is imported

    report.write_text(json.dumps(run(checks.stem, names)))
