"""The command line of weights.py: `python core/weights.py list`, `check` or `download ID`.

It looks into one models folder; the further ones of extra_model_paths.yaml are known to ComfyUI only.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

if __package__:
    from . import weights, weights_download
    from .quoting import printable, quote
else:
    import weights
    import weights_download
    from quoting import printable, quote


def models_folder(chosen: str | Path | None = None) -> Path:
    """The models folder: the chosen one, COMFYUI_PATH's, the one next to custom_nodes, or a usual place under home."""
    pack = Path(__file__).absolute().parents[1]
    if chosen == "":
        raise ValueError("The models folder is empty text; name a folder or leave out --models-dir")
    if chosen is not None:
        candidates = [Path(chosen)]
    elif os.environ.get("COMFYUI_PATH"):
        candidates = [Path(os.environ["COMFYUI_PATH"]).expanduser() / "models"]
    else:
        if pack.parent.name == "custom_nodes":  # never another ComfyUI than the one the pack lies in
            candidates = [pack.parent.parent / "models"]
        else:
            candidates = [Path.home() / "comfy" / "ComfyUI" / "models", Path.home() / "ComfyUI" / "models"]
    for candidate in candidates:
        if os.path.isdir(candidate):  # unlike Path.is_dir, False for a name that is too long
            return candidate
    tried = ", ".join(printable(str(candidate)) for candidate in candidates)
    raise FileNotFoundError(f"No models folder (looked for {tried}); name it with --models-dir")


def main(arguments: Sequence[str] | None = None, program: str = "weights.py") -> int:
    """Run one command; returns the exit status: 0, or 1 if it failed or found a corrupt file."""
    chosen = _parser(program).parse_args(arguments)
    try:
        models = models_folder(chosen.models_dir)
        if chosen.command == "download":
            return _download(models, chosen.id, chosen.accept_licence)
        return _list(models) if chosen.command == "list" else _check(models)
    except (ValueError, RuntimeError, OSError) as error:
        sys.stderr.write(f"{printable(str(error), 1400)}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped. What was fetched is kept; the same command continues.\n")
        return 1


def _parser(program: str) -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--models-dir", help="ComfyUI's models folder, where it is not found by itself")
    parser = argparse.ArgumentParser(prog=program, description="The weight files of StoryIdentity's workflows.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", parents=[common], help="every file: here or missing, size, licence")
    commands.add_parser("check", parents=[common], help="compare the files that are here; exit 1 if one is corrupt")
    fetch = commands.add_parser("download", parents=[common], help="fetch one file into its folder")
    fetch.add_argument("id")
    fetch.add_argument("--accept-licence", action="store_true", help="for files that are not for commercial use")
    return parser


def _list(models: Path) -> int:
    _say(f"in {printable(str(models))}; nothing in this version reads the ones marked planned")
    for weight in weights.load_manifest().values():
        state = "present" if weights.find(weight, [models / weight.folder]) else "missing"
        use = ", not for commercial use" if weight.non_commercial else ""
        planned = "  (planned)" if all(user.startswith("planned:") for user in weight.used_by) else ""
        _say(f"{state}  {weight.id:35}  {weight.size_text:>12}  {weight.licence}{use}{planned}")
    return 0


def _check(models: Path) -> int:
    corrupt = 0
    for weight in weights.load_manifest().values():
        path = weights.find(weight, [models / weight.folder])
        if path is None:
            _say(f"missing  {weight.id}: {printable(str(models / weight.folder / weight.name))}")
            continue
        try:
            checked = weights.verify(weight, path)
        except (weights.WeightError, OSError) as error:
            corrupt += 1
            _say(f"CORRUPT  {weight.id}: {printable(str(error))}")
            continue
        unknown = " and no ".join(what for what in ("size", "sha256") if what not in checked)
        known = f"{' and '.join(checked)} as expected" + (f" (no {unknown} known)" if unknown else "")
        _say(f"present  {weight.id}: {known}")
    return 1 if corrupt else 0


def _download(models: Path, weight_id: str, accept_licence: bool) -> int:
    manifest = weights.load_manifest()
    if weight_id not in manifest:
        raise ValueError(f"No file has the id {quote(weight_id)}; the ids are: {', '.join(manifest)}")
    weight = manifest[weight_id]
    found = weights.find(weight, [models / weight.folder])
    folder = found.parent if found else models / weight.folder
    target = weights_download.download(weight, folder, accept_licence=accept_licence, progress=_show_progress())
    _say(f"{printable(str(target))} is in place")
    return 0


def _show_progress() -> Callable[[int, int | None], None]:
    shown = ""

    def show(done: int, total: int | None) -> None:
        nonlocal shown
        text = f"{100 * done // total}% of {total} bytes" if total else f"{done >> 20} MiB"
        if text != shown:
            sys.stderr.write(f"\r{text}" + ("\n" if done == total else ""))
        shown = text

    return show


def _say(line: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
