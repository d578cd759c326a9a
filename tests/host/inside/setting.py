"""ComfyUI in this very process, the pack as `story_identity`, and models small enough to sample with in a moment.

Importing this module first prepares the host, so that afterwards `comfy`, `nodes` and `story_identity.nodes` import.
"""

import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import comfy.options

REPOSITORY = Path(__file__).resolve().parents[3]


def _register_pack() -> None:
    """Make the repository importable as `story_identity`, without its folder, whose `nodes` would hide the host's."""
    spec = importlib.util.spec_from_file_location(
        "story_identity", REPOSITORY / "__init__.py", submodule_search_locations=[str(REPOSITORY)]
    )
    assert spec is not None
    assert spec.loader is not None
    pack = importlib.util.module_from_spec(spec)
    sys.modules["story_identity"] = pack
    spec.loader.exec_module(pack)


def _register_tests() -> None:
    """Make this repository's `tests` the importable one; ComfyUI has a folder of the same name."""
    tests = types.ModuleType("tests")
    tests.__path__ = [str(REPOSITORY / "tests")]
    sys.modules["tests"] = tests


comfy.options.enable_args_parsing()
_register_pack()
_register_tests()

import comfy.model_detection  # noqa: E402 - the host reads its arguments when this is imported
import comfy.model_patcher  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.supported_models  # noqa: E402
import folder_paths  # noqa: E402
import torch  # noqa: E402
from comfy.model_patcher import ModelPatcher  # noqa: E402

from tests.stand_ins.unet import UNetShape, unet_weights  # noqa: E402

# The models are so small that handing work to threads takes longer than doing it, many times longer on a busy machine.
torch.set_num_threads(1)

Conditioning = list[list]

# As wide as group norms need; the blocks that have attention are those of the real models.
SD15 = UNetShape(64, (1, 1, 1, 0), (1, 1, 1, 0), middle_depth=1, context=768, label=None, linear=False)
ONE_GRID = UNetShape(64, (0, 1), (0, 1), middle_depth=1, context=768, label=None, linear=False)
SDXL = UNetShape(64, (0, 1, 2), (0, 1, 1), middle_depth=1, context=2048, label=2816, linear=True)


def tiny_sd15(seed: int = 1) -> ModelPatcher:
    return _tiny(SD15, comfy.supported_models.SD15, seed)


def tiny_one_grid(seed: int = 1) -> ModelPatcher:
    """A UNet of SD1.5's kind with attention on its smallest grid alone, as the toy world's."""
    return _tiny(ONE_GRID, comfy.supported_models.SD15, seed)


def tiny_sdxl(seed: int = 1) -> ModelPatcher:
    return _tiny(SDXL, comfy.supported_models.SDXL, seed)


def _tiny(shape: UNetShape, family: type, seed: int) -> ModelPatcher:
    """A new model each time, so that what one check leaves on its weights is nobody else's."""
    weights = unet_weights(shape, seed, torch.float32)
    config = family(comfy.model_detection.detect_unet_config(weights, ""))
    config.unet_config |= {"num_heads": -1, "num_head_channels": 16}
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model(weights, "", device="cpu")
    model.diffusion_model.load_state_dict(weights)
    model.eval()
    cpu = torch.device("cpu")
    return comfy.model_patcher.CoreModelPatcher(model, load_device=cpu, offload_device=cpu)


def conditioning(model: ModelPatcher, seed: int, tokens: int = 77) -> Conditioning:
    """A prompt of random numbers in the width that `model` reads; equal seeds are equal prompts."""
    generator = torch.Generator().manual_seed(seed)
    config = model.model.model_config.unet_config
    prompt = torch.randn(1, tokens, config["context_dim"], generator=generator)
    labelled = config["adm_in_channels"] is not None
    return [[prompt, {"pooled_output": torch.randn(1, 1280, generator=generator)} if labelled else {}]]


def empty_latent(height: int = 8, width: int = 8, batch: int = 1) -> dict[str, torch.Tensor]:
    """What the node Empty Latent Image gives, with the size in latent pixels."""
    return {"samples": torch.zeros(batch, 4, height, width)}


def refused(action: Callable[[], object], *words: str) -> None:
    """Run something that must be refused with a message that has all the words."""
    try:
        action()
    except (ValueError, FileNotFoundError) as error:
        message = str(error)
    else:
        raise AssertionError(f"not refused: {words}")
    assert all(word in message for word in words), (words, message)


@dataclass
class Evaluations:
    calls: int = 0
    samples: int = 0


@contextmanager
def counted(model: ModelPatcher) -> Iterator[Evaluations]:
    """Count the UNet's calls and the batch rows it is given, while the context is open."""
    count = Evaluations()

    def add(_module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        count.calls += 1
        count.samples += args[0].shape[0]

    hook = model.model.diffusion_model.register_forward_pre_hook(add)
    try:
        yield count
    finally:
        hook.remove()


@cache
def stand_in_sdxl() -> tuple[ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """The stand-in checkpoint through the stock loader; one for all checks of a process, so clone what you change."""
    small = {"num_hidden_layers": 3, "intermediate_size": 64}
    return comfy.sd.load_checkpoint_guess_config(
        folder_paths.get_full_path_or_raise("checkpoints", "sd_xl_base_1.0.safetensors"),
        te_model_options={"clip_l_model_config": small, "clip_g_model_config": small},
    )[:3]
