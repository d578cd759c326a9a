"""Reading, while the host samples, where in the picture the prompt's people are."""

from collections.abc import Hashable, Mapping
from typing import Any
from uuid import UUID

import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

from ...core.map_reader import STEADY, MapReader, PositionsInText
from ..types import Conditioning
from .story_prompts import Named, named_in
from .unet_hooks import (
    Options,
    Participant,
    refuse_other_than_unet,
    refuse_several_gpus,
    warn_if_compiled,
    with_hooks,
    with_participant,
)

_WHO = "Reading attention maps"
_KEY = "story_identity_token_maps"


def new_reader(named: Mapping[UUID, Named], frames: int, decay: float) -> MapReader:
    """A reader of the prompts that name characters, for one sampling of n frames; prompts are known by their uuids."""
    naming: dict[Hashable, PositionsInText] = {
        uuid: each.in_text_of for uuid, each in named.items() if any(map(any, each.positions))
    }
    return MapReader(frames, naming, decay)


def level_of(options: Options) -> float:
    """The noise level of a model call."""
    return float(options["sigmas"].max())


class SamplingReader(Participant):
    """Reads the token maps of a whole sampling and changes nothing (Storynizor, equation 5).

    Args:
        named: Where each prompt names whom, by its uuid.
        frames: How many rows every prompt has.
        decay: Weight of the maps of earlier steps.
    """

    def __init__(self, named: Mapping[UUID, Named], frames: int, decay: float) -> None:
        self.named = named
        self.reader = new_reader(named, frames, decay)

    def wants(self, options: Options) -> bool:
        """Every call is read."""
        return True

    def evaluate(
        self,
        executor: Any,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        y: Tensor | None,
        control: Any,
        transformer_options: Options,
        **more: Any,
    ) -> Tensor:
        """The DIFFUSION_MODEL wrapper."""
        self.reader.begin_call(transformer_options["uuids"], level_of(transformer_options))
        hooked = with_hooks(transformer_options, cross_attention=self.reader.read)
        result = executor(x, timesteps, context, y, control, hooked, **more)
        self.reader.end_call()
        return result

    def result(self) -> tuple[list[str], Tensor]:
        """The names and their maps `(n, s, h, w)`, float32 on the CPU, after sampling; nobody named, nothing read.

        Raises:
            ValueError: If no layer could be read.
        """
        named = next(iter(self.named.values()))
        if not named.names:
            return [], torch.zeros(len(named.prompts), 0, 1, 1)
        read = self.reader.maps
        maps = None if read is None else read.maps(read.grid)
        if maps is None:
            raise ValueError(
                "No attention maps could be read: other patches on the MODEL change the number of its tokens in every "
                "layer, or divide the batch. Connect the MODEL without them."
            )
        return named.names, maps.cpu()

    def of_one_frame(self) -> dict[str, Tensor]:
        """The maps `(h, w)` of a single frame by name, after sampling."""
        names, maps = self.result()
        return dict(zip(names, maps[0], strict=True))


def attach_reader(guider: Any, frames: int, decay: float = STEADY) -> SamplingReader:
    """Let a guider whose prompts are set read maps when it samples; on its own options, not on the shared MODEL.

    Raises:
        ValueError: If the MODEL is no UNet, no prompt names people, or a prompt is of another number of frames.
    """
    refuse_other_than_unet(guider.model_patcher, _WHO)
    refuse_several_gpus(guider.model_patcher, _WHO)
    named = named_in(guider.original_conds)
    if not named:
        raise ValueError(
            "The positive prompt does not say where it names the characters. Encode it with Encode Story or Encode "
            "Frame, and give it no area."
        )
    for each in named.values():
        if len(each.prompts) != frames:
            raise ValueError(
                f"The positive prompt is of {len(each.prompts)} frames, the LATENT holds {frames}. Use Encode Frame "
                "for a single picture, and Encode Story with a batch of all frames."
            )
    warn_if_compiled(guider.model_patcher, _WHO, "all steps")
    reader = SamplingReader(named, frames, decay)
    options = guider.model_options.get("transformer_options", {})
    guider.model_options = {**guider.model_options, "transformer_options": with_participant(options, _KEY, reader)}
    return reader


def look_at_latents(
    model: Any, positive: Conditioning, samples: Tensor, percent: float, seed: int
) -> tuple[list[str], Tensor]:
    """The names and maps `(n, s, h, w)` of finished latents, noised to a level and shown to the model once.

    Args:
        model: The MODEL.
        positive: From Encode Story or Encode Frame, as many frames as there are latents.
        samples: Finished latents.
        percent: The noise level: how far into sampling, 0 (noise alone) to just under 1.
        seed: The seed of the noise.
    """
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": positive})
    reader = attach_reader(guider, len(samples))
    sampling = model.get_model_object("model_sampling")
    sigma = min(float(sampling.percent_to_sigma(percent)), float(sampling.sigma_max))
    noise, euler = comfy.sample.prepare_noise(samples, seed), comfy.samplers.sampler_object("euler")
    guider.sample(noise, samples, euler, torch.tensor([sigma, 0.0]), disable_pbar=True, seed=seed)
    return reader.result()
