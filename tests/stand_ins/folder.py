"""A models folder of stand-ins, each written once and kept until the code that writes it changes."""

import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.stand_ins.clip_vision import write_clip_vision
from tests.stand_ins.ip_adapters import write_plus_face_sd15
from tests.stand_ins.photomaker import write_few_steps_lora, write_photomaker
from tests.stand_ins.sd15 import write_sd15
from tests.stand_ins.sdxl import write_controlnet, write_sdxl

HERE = Path(__file__).parent
KEPT = Path(tempfile.gettempdir()) / "story-identity-stand-ins"


def write_all(models_dir: Path) -> None:
    """Put every stand-in where ComfyUI looks for the real file."""
    for name, (write, sources) in _writers().items():
        _put(_kept(name, write, sources), models_dir / name)


def _writers() -> dict[str, tuple[Callable[[Path], None], tuple[str, ...]]]:
    unet = ("weights", "unet", "sdxl")
    writers: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
        "checkpoints/sd_xl_base_1.0.safetensors": (write_sdxl, unet),
        "checkpoints/v1-5-pruned-emaonly-fp16.safetensors": (write_sd15, (*unet, "sd15")),
        "controlnet/controlnet-openpose-sdxl-1.0.safetensors": (write_controlnet, unet),
        "photomaker/photomaker-v1.bin": (write_photomaker, (*unet, "clip_vision", "photomaker")),
        "loras/sdxl_lightning_8step_lora.safetensors": (write_few_steps_lora, (*unet, "photomaker")),
        "clip_vision/CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors": (write_clip_vision, ("weights", "clip_vision")),
        "ipadapter/ip-adapter-plus-face_sd15.safetensors": (
            write_plus_face_sd15,
            (*unet, "sd15", "clip_vision", "ip_adapters"),
        ),
    }
    if importlib.util.find_spec("tests.stand_ins.detectors"):
        from tests.stand_ins import detectors

        source = ("detectors",)
        writers["grounding-dino/groundingdino_swinb_cogcoor.pth"] = (detectors.write_tiny_grounding_dino, source)
        writers["sams/sam_vit_h_4b8939.pth"] = (detectors.write_tiny_sam, source)
        writers["bert-base-uncased"] = (detectors.write_tiny_bert_tokenizer, source)
    return writers


def _kept(name: str, write: Callable[[Path], None], sources: tuple[str, ...]) -> Path:
    """The kept copy of `name`: made when it is missing, older ones removed. Named by the code it was made with."""
    digest = hashlib.sha256(b"".join((HERE / f"{source}.py").read_bytes() for source in sources)).hexdigest()[:12]
    path = KEPT / digest / name
    if path.exists():
        return path
    for old in KEPT.glob(f"*/{name}"):
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=path.parent)) / path.name
    write(unfinished)
    unfinished.rename(path)
    unfinished.parent.rmdir()
    return path


def _put(kept: Path, path: Path) -> None:
    """A hard link where the file system allows one, else a copy: either outlives the kept file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kept.is_dir():
        shutil.copytree(kept, path)
        return
    try:
        os.link(kept, path)
    except OSError:
        shutil.copyfile(kept, path)
