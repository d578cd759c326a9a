"""The two passes of IdentityStory as guiders: one records every model call, one answers and composites.

Both are real `CFGGuider`s, so ControlNet, noise masks, LoRA, FreeU and other patches, and every sampler work as they do
under the stock KSampler. They act on what the sampler sees: the guided prediction after all wrappers and hooks.
"""

import copy
from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from torch import Tensor

from ...core.latent_cache import CacheReplay, LatentRecorder, ModelCall, NoisyLatentCache
from ...core.quoting import quote
from ...core.redenoise import ProgressiveMasks, composite, to_latent_grid
from ..types import Cast

PostCfgHook = Callable[[dict[str, Any]], Tensor]
_HOOKS = "sampler_post_cfg_function"
WRAPPER_STATE = ("easycache",)
"""Transformer options in which core wrappers (EasyCache, LazyCache) remember the last call; not to be shared."""


def sampler_hooks(model_options: dict[str, Any], own: dict[str, Any]) -> list[PostCfgHook]:
    """The post-CFG hooks that the sampler added to the model's own: CFG++ samplers read the unconditional there.

    The host appends, so what stands after the model's own is the sampler's.
    """
    return model_options.get(_HOOKS, [])[len(own.get(_HOOKS, [])) :]


class _UnconditionalTap:
    """A post-CFG hook that remembers the unconditional prediction of the call."""

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def __call__(self, args: dict[str, Any]) -> Tensor:
        self.value = args["uncond_denoised"]
        return args["denoised"]

    def added_to(self, model_options: dict[str, Any]) -> dict[str, Any]:
        return {**model_options, _HOOKS: [*model_options.get(_HOOKS, []), self]}


class _Character:
    """What one character keeps between calls: prepared prompts, the last unconditional, the wrappers' state."""

    def __init__(self, conds: dict[str, Any]) -> None:
        self.conds = conds
        self.tap = _UnconditionalTap()
        self._state: dict[str, Any] | None = None

    def options(self, model_options: dict[str, Any], hook_count: int) -> dict[str, Any]:
        """The call's options with this character's own wrapper state, and the tap in place of the sampler's hooks."""
        transformer = model_options.get("transformer_options", {})
        if self._state is None:
            self._state = {key: copy.deepcopy(transformer[key]) for key in WRAPPER_STATE if key in transformer}
        if self._state:
            model_options = {**model_options, "transformer_options": {**transformer, **self._state}}
        if hook_count:
            model_options = self.tap.added_to({**model_options, _HOOKS: model_options[_HOOKS][:-hook_count]})
        return model_options


class RecordingGuider(comfy.samplers.CFGGuider):
    """A stock guider that also hands every model call to a recorder."""

    def __init__(self, model_patcher: Any, recorder: LatentRecorder) -> None:
        super().__init__(model_patcher)
        self.recorder = recorder

    def outer_predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: int | None = None
    ) -> Tensor:
        model_options = model_options or {}
        tap = _UnconditionalTap()
        if sampler_hooks(model_options, self.model_options):
            model_options = tap.added_to(model_options)
        prediction = super().outer_predict_noise(x, timestep, model_options, seed)
        self.recorder.add(float(timestep.max()), x, prediction, tap.value)
        return prediction


class RedenoiseGuider(comfy.samplers.CFGGuider):
    """Answers the sampler from the cache and, from `masks.start` on, puts the characters' predictions into it.

    The base model is never evaluated. A call costs one guided evaluation per character from step `start` on and nothing
    before. The background follows the cached trajectory bit for bit.

    Args:
        model_patcher: The identity generator.
        cache: The template's calls.
        masks: One mask per member of `cast`, in that order.
        cast: The characters to put in; may be empty.
        soft_edge: Blend mask edges by coverage in place of selecting whole latent cells.
    """

    def __init__(
        self, model_patcher: Any, cache: NoisyLatentCache, masks: ProgressiveMasks, cast: Cast, soft_edge: bool = False
    ) -> None:
        super().__init__(model_patcher)
        self.cache = cache
        self.masks = masks
        self.soft_edge = soft_edge
        self.count = len(cast)
        self.replay = CacheReplay(cache.calls, cache.recipe.sampler_name)
        self.arrived = False
        conds = {}
        for index, member in enumerate(cast):
            conds[f"positive {index}"] = member.positive
            conds[f"negative {index}"] = member.negative
        self.inner_set_conds(conds)

    def inner_sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        device: torch.device,
        sampler: Any,
        sigmas: Tensor,
        denoise_mask: Tensor | None,
        callback: Any,
        disable_pbar: bool,
        seed: int | None,
        latent_shapes: Any = None,
    ) -> Tensor:
        """Prepare each character's conditioning as if it were sampled alone, then sample."""
        all_conds = self.conds
        scaled = latent_image
        if torch.count_nonzero(latent_image) > 0:
            scaled = self.inner_model.process_latent_in(latent_image)
        pairs = [{kind: all_conds[f"{kind} {i}"] for kind in ("positive", "negative")} for i in range(self.count)]
        self.characters = [
            _Character(
                comfy.samplers.process_conds(
                    self.inner_model, noise, pair, device, scaled, denoise_mask, seed, latent_shapes=latent_shapes
                )
            )
            for pair in pairs
        ]
        self.conds = {}
        try:
            return super().inner_sample(
                noise, latent_image, device, sampler, sigmas, denoise_mask, callback, disable_pbar, seed, latent_shapes
            )
        finally:
            self.conds = all_conds
            del self.characters

    def outer_predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: int | None = None
    ) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        model_options = model_options or {}
        call = self.replay.answer(float(timestep.max()))
        step = self.cache.step_of_call(call)
        hooks = sampler_hooks(model_options, self.model_options)
        prediction = _on_device(call.prediction, x)
        unconditional = None if call.unconditional is None else _on_device(call.unconditional, x)
        if step >= self.masks.start and self.count:
            self._check_trajectory(call, x)
            prediction, unconditional = self._put_characters_in(
                x, timestep, prediction, unconditional, step, model_options, len(hooks), seed
            )
        if unconditional is None:  # no hook was called here when the template was sampled either
            return prediction
        arguments = {"input": x, "sigma": timestep, "cond_scale": self.cfg, "model": self.inner_model}
        for hook in hooks:
            prediction = hook(
                {**arguments, "denoised": prediction, "uncond_denoised": unconditional, "model_options": model_options}
            )
        return prediction

    def _check_trajectory(self, call: ModelCall, x: Tensor) -> None:
        """Before the first UNet call: the replay must have arrived where the template was."""
        first, self.arrived = not self.arrived, True
        if not first or call.latent is None:
            return
        expected = _on_device(call.latent, x)
        if not (x.isfinite().all() and expected.isfinite().all()):
            raise ValueError(
                f"The template's latent at sigma {call.sigma:.4g} has NaN or infinite values, so there is nothing to "
                "re-denoise. The base model overflowed: try another precision, CFG scale, or cache precision float32."
            )
        tolerance = 1e-4 if call.prediction.dtype == torch.float32 else 2e-2
        error = float((x - expected).abs().max() / expected.abs().max().clamp(min=1e-6))
        if not error <= tolerance:
            recipe = self.cache.recipe
            raise ValueError(
                f"Replaying the cache with the sampler {quote(recipe.sampler_name)} and seed {recipe.seed} does not "
                f"give the template's latent (relative difference {error:.2g} at sigma {call.sigma:.4g}). The "
                "sampler draws noise that the seed does not fix, or one of the two MODELs has a patch that changes "
                "what the sampler sees (Differential Diffusion) and the other has not, or the device changed."
            )

    def _put_characters_in(
        self,
        x: Tensor,
        timestep: Tensor,
        background: Tensor,
        background_unconditional: Tensor | None,
        step: int,
        model_options: dict[str, Any],
        hook_count: int,
        seed: int | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Predict every character on the current latent and composite with the masks of a step (equation 7)."""
        predictions = []
        for character in self.characters:
            self.conds = character.conds
            options = character.options(model_options, hook_count)
            predictions.append(super().outer_predict_noise(x, timestep, options, seed))
        self.conds = {}
        masks = to_latent_grid(self.masks.at(step), x.shape[-2], x.shape[-1], self.soft_edge)
        masks = masks.unsqueeze(1).to(x.device)
        prediction = composite(background, torch.stack(predictions), masks)
        unconditionals = [character.tap.value for character in self.characters if character.tap.value is not None]
        if background_unconditional is None or len(unconditionals) < self.count:
            return prediction, None
        return prediction, composite(background_unconditional, torch.stack(unconditionals), masks)


def _on_device(stored: Tensor, like: Tensor) -> Tensor:
    """A copy the sampler may write into; the cache stays as it is."""
    return stored.to(like.device, like.dtype, copy=True)
