"""Reading, while the host samples, where in the picture the prompt's people are."""

from collections import Counter
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

from ...core.automask import TokenMaps, token_maps
from ..types import Conditioning
from .attention import (
    Attend,
    Layer,
    Options,
    Participant,
    refuse_other_than_unet,
    refuse_several_gpus,
    warn_if_compiled,
    with_hooks,
    with_participant,
)
from .story_prompts import Named, named_in

_WHO = "Reading attention maps"
_KEY = "story_identity_token_maps"
_STEADY = 0.9
"""Decay of the maps of a whole sampling: about the last ten steps count, in which people no longer move."""


class MapReader(Participant):
    """Collects the token maps of the prompts that name people (Storynizor, equation 5).

    One sampling has one reader. A prompt is read once per step: the further calls of two-stage samplers and of
    perturbed-attention guidance at the same noise level add nothing.

    Args:
        named: Where each prompt names whom, by its uuid.
        decay: Weight of the earlier steps.
    """

    def __init__(self, named: Mapping[UUID, Named], decay: float) -> None:
        self.named = named
        self.decay = decay
        self.maps: TokenMaps | None = None
        self.sigma: float | None = None
        self.visits: Counter[float] = Counter()
        self.uuids: list[UUID] = []
        self.calls: Counter[UUID] = Counter()

    @property
    def names_anybody(self) -> bool:
        """Whether there is anything to read: some frame of some prompt names a character."""
        return any(places for named in self.named.values() for frames in named.positions for places in frames)

    def begin(self, options: Options) -> bool:
        """A call of the model begins; true if a step begins with it, that is, another noise level."""
        sigma = float(options["sigmas"].max())
        self.uuids = options["uuids"]
        if sigma == self.sigma:
            return False
        self.sigma = sigma
        self.visits[sigma] += 1  # solvers such as heunpp2 come back to a level
        self.calls.clear()
        if self.maps is not None:
            self.maps.next_step()
        return True

    def end(self) -> None:
        """The call is over."""
        self.calls.update(self.uuids)

    def read(self, q: Tensor, k: Tensor, v: Tensor, heads: int, layer: Layer, attend: Attend) -> Tensor:
        """The cross-attention hook; it changes nothing."""
        for place, uuid in enumerate(self.uuids):
            if uuid in self.named and not self.calls[uuid]:
                named, count = self.named[uuid], len(self.named[uuid].prompts)
                if len(q) == count * len(self.uuids):
                    rows = slice(place * count, (place + 1) * count)
                    self._add(named, q[rows], k[rows], heads, layer.grid)
        return attend(q, k, v, heads)

    def _add(self, named: Named, q: Tensor, k: Tensor, heads: int, grid: tuple[int, int]) -> None:
        positions = named.in_text_of(k.shape[1])
        if not positions or q.shape[1] != grid[0] * grid[1]:
            return  # nobody is named, or another pack changed the text or the tokens of this layer
        if self.maps is None:
            self.maps = TokenMaps(grid, self.decay)  # a UNet's first layers are its finest
        self.maps.add(token_maps(q, k, positions, heads), grid)

    def wants(self, options: Options) -> bool:
        """A reader that works alone reads every call."""
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
        """The DIFFUSION_MODEL wrapper of a reader that works alone."""
        self.begin(transformer_options)
        hooked = with_hooks(transformer_options, cross_attention=self.read)
        result = executor(x, timesteps, context, y, control, hooked, **more)
        self.end()
        return result

    def result(self) -> tuple[list[str], Tensor]:
        """The names and their maps `(n, s, h, w)`, float32 on the CPU, after sampling; nobody named, nothing read.

        Raises:
            ValueError: If no layer could be read.
        """
        named = next(iter(self.named.values()))
        if not named.names:
            return [], torch.zeros(len(named.prompts), 0, 1, 1)
        maps = None if self.maps is None else self.maps.maps(self.maps.grid)
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


def attach_reader(guider: Any, frames: int, decay: float = _STEADY) -> MapReader:
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
    reader = MapReader(named, decay)
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
        seed: Seed of the noise.
    """
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": positive})
    reader = attach_reader(guider, len(samples))
    sampling = model.get_model_object("model_sampling")
    sigma = min(float(sampling.percent_to_sigma(percent)), float(sampling.sigma_max))
    noise, euler = comfy.sample.prepare_noise(samples, seed), comfy.samplers.sampler_object("euler")
    guider.sample(noise, samples, euler, torch.tensor([sigma, 0.0]), disable_pbar=True, seed=seed)
    return reader.result()
