"""The synchronizer: a LoRA that teaches a UNet to share attention across frames, and where its people are.

Storynizor, section 3.1. The UNet is frozen; low-rank adapters on its attention projections learn from groups of
pictures of the same people, with auto-mask self-attention among the frames of a group and
L = L_diffusion + lambda * L_mask (equations 7 and 8).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import cast_training_params
from diffusers.utils import convert_state_dict_to_kohya
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

from ...core.atomic_files import atomic_write
from ...core.shapes import Float
from ...headless.schema import setting
from ..step_random import StepRandom
from .batch import Places, batch_of
from .denoising_task import make_task
from .frozen_unet import FrozenPipeline
from .groups import Group
from .losses import mask_loss
from .settings import TrainingSettings

ADAPTER = "synchronizer"
FILE = "synchronizer.safetensors"
PROJECTIONS = ["to_q", "to_k", "to_v", "to_out.0"]


class SynchronizerSettings(TrainingSettings):
    """The settings of the synchronizer's training."""

    frames: int = setting(4, "Pictures of a group that see each other.", ge=2, le=2**12)
    rank: int = setting(32, "Rank of the LoRA.", ge=1, le=2**12)
    mask_loss: float = setting(
        0.1, "Lambda, the weight of the mask loss; 0 leaves it out. The paper does not say.", ge=0
    )


class Synchronizer(FrozenPipeline):
    """A pipeline's UNet with the LoRA to be trained; everything else is frozen.

    Args:
        pipe: Until `close` its UNet has the adapter, float32 whatever the UNet is, and the hooks.
        settings: How.
    """

    def __init__(self, pipe: Any, settings: SynchronizerSettings) -> None:
        thawed = [each for each in pipe.unet.parameters() if each.requires_grad]
        super().__init__(pipe, settings)
        self.settings, self._thawed = settings, thawed
        torch.manual_seed(settings.seed)
        low_rank = LoraConfig(
            r=settings.rank, lora_alpha=settings.rank, target_modules=PROJECTIONS, init_lora_weights="gaussian"
        )
        self.unet.add_adapter(low_rank, ADAPTER)
        cast_training_params(self.unet)

    def close(self) -> None:
        """Take adapter and hooks off the pipeline, which is then as it was."""
        super().close()
        self.unet.unload_lora()
        for each in self._thawed:
            each.requires_grad_(True)

    def forward(self, groups: Sequence[Group], random: StepRandom) -> dict[str, Float[Tensor, ""]]:
        """The losses of some groups: "loss", and its parts "diffusion" and, if it counts, "mask"."""
        settings = self.settings
        batch = batch_of(groups, settings, random)
        task = make_task(self.pipe, batch.pictures, batch.captions, batch.labels, settings.frames, random)
        shares = random.chosen(len(groups), 1 - settings.plain)
        seen = self.attention.look(self.pipe, task, batch) if any(shares) else None
        places = batch.places(self.pipe, batch.captions) if settings.mask_loss else ()
        self.attention.begin(places, seen, shares)
        predicted = self.predict(task)
        maps = self.attention.take_maps()
        losses = {"diffusion": nn.functional.mse_loss(predicted, task.target)}
        if settings.mask_loss:
            masks = batch.masks.to(self.unet.device)
            losses["mask"] = mask_loss(maps, masks, counted(masks, places))
            return {"loss": losses["diffusion"] + settings.mask_loss * losses["mask"], **losses}
        return {"loss": losses["diffusion"], **losses}

    def save(self, folder: Path) -> Path:
        """Write the LoRA, in the layout that ComfyUI's and diffusers' own loaders read; its path."""
        state = get_peft_model_state_dict(self.unet, adapter_name=ADAPTER)
        named = convert_state_dict_to_kohya({f"unet.{key}": value.cpu() for key, value in state.items()})
        path = folder / FILE
        with atomic_write(path) as temporary:
            save_file({key: value.contiguous() for key, value in named.items()}, temporary)
        return path


def counted(masks: Float[Tensor, "n s h w"], places: Places) -> Float[Tensor, "n s"]:
    """1 for every character who is in the caption and seen in a picture."""
    named = torch.tensor([[bool(row) for row in rows] for rows in places]).T.to(masks.device)
    return (named & masks.flatten(2).any(dim=2)).float()
