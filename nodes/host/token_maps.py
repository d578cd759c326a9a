"""Reading, while the host samples, where in the picture the prompt's people are."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any
from uuid import UUID

import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

from ...core.map_reader import STEADY, MapReader, PositionsInText
from ..types import Conditioning
from .frame_calls import need_own_calls
from .frame_groups import one_frame
from .story_prompts import Named, named_in
from .transformer_families import Family, refuse_unknown
from .transformer_hooks import apply_transformer
from .unet_hooks import (
    Attach,
    HookingParticipant,
    Options,
    refuse_several_gpus,
    warn_if_compiled,
    with_participant,
)

_WHO = "Reading attention maps"
_KEY = "story_identity_token_maps"


def new_reader(named: Mapping[UUID, Named], frames: int, decay: float, family: Family | None = None) -> MapReader:
    """A reader of the prompts that name characters, for one sampling of n frames; prompts are known by their uuids."""
    naming: dict[Hashable, PositionsInText] = {
        uuid: each.in_text_of if family is None else each.padded_to
        for uuid, each in named.items()
        if any(map(any, each.positions))
    }
    return MapReader(frames, naming, decay)


def level_of(options: Options) -> float:
    """The noise level of a model call."""
    return float(options["sigmas"].max())


class SamplingReader(HookingParticipant):
    """Reads the token maps of a whole sampling and changes nothing (Storynizor, equation 5).

    Args:
        named: Where each prompt names whom, by its uuid.
        frames: How many rows every prompt has.
        decay: Weight of the maps of earlier steps.
        family: Of the MODEL, if it is a transformer.
    """

    def __init__(self, named: Mapping[UUID, Named], frames: int, decay: float, family: Family | None = None) -> None:
        self.named = named
        self.reader = new_reader(named, frames, decay, family)

    def wants(self, options: Options) -> bool:
        """Every call is read."""
        return True

    def hook_call(self, x: Tensor, options: Options, attach: Attach, call: Callable[[Options], Tensor]) -> Tensor:
        """Read the call."""
        self.reader.begin_call(options["uuids"], level_of(options))
        result = call(attach(options, reader=self.reader))
        self.reader.end_call()
        return result

    def report(self, reason: str) -> None:
        """Maps that are missing are missed in `result`."""

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
        ValueError: If the MODEL's attention cannot be read, no prompt names people, or a prompt is of another number of
            frames.
    """
    family = refuse_unknown(guider.model_patcher, _WHO)
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
    reader = SamplingReader(named, frames, decay, family)
    options = guider.model_options.get("transformer_options", {})
    around = apply_transformer if family else None
    options = with_participant(options, _KEY, reader, around)
    guider.model_options = {**guider.model_options, "transformer_options": options}
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
    if need_own_calls({"positive": [extras for _, extras in positive]}):
        rows = range(len(samples))
        seen = [_look(model, one_frame(positive, row, len(samples)), samples, row, percent, seed) for row in rows]
        return seen[0][0], torch.cat([maps for _, maps in seen])
    return _look(model, positive, samples, None, percent, seed)


def _look(
    model: Any, positive: Conditioning, samples: Tensor, row: int | None, percent: float, seed: int
) -> tuple[list[str], Tensor]:
    """The maps of all latents, or of one, with the noise that it has among all."""
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": positive})
    rows = slice(None) if row is None else slice(row, row + 1)
    reader = attach_reader(guider, len(samples[rows]))
    sampling = model.get_model_object("model_sampling")
    sigma = min(float(sampling.percent_to_sigma(percent)), float(sampling.sigma_max))
    noise, euler = comfy.sample.prepare_noise(samples, seed), comfy.samplers.sampler_object("euler")
    guider.sample(noise[rows], samples[rows], euler, torch.tensor([sigma, 0.0]), disable_pbar=True, seed=seed)
    return reader.result()
