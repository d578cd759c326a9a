"""The two passes of IdentityStory as guiders: one records every model call, one answers and composites.

Both are real `CFGGuider`s, so ControlNet, noise masks, LoRA, FreeU and other patches, and every sampler work as they do
under the stock KSampler. They act on what the sampler sees: the guided prediction after all wrappers and hooks.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from torch import Tensor

from ...core.guidance import OWN, TEMPLATES
from ...core.latent_cache import CacheReplay, LatentRecorder, ModelCall, NoisyLatentCache
from ...core.quoting import quote
from ...core.redenoise import ProgressiveMasks, composite, to_latent_grid
from ...core.region import Region
from ..types import Cast, CastMember
from .character_guider import (
    CharacterGuider,
    OwnModelGuider,
    Unconditionals,
    UnconditionalTap,
    sampler_hooks,
    without_last_hooks,
)


class RecordingGuider(comfy.samplers.CFGGuider):
    """A stock guider that also hands every model call to a recorder.

    Args:
        model_patcher: The base model.
        recorder: What remembers the calls.
        keep_unconditional: Remember the unconditional predictions also where the sampler does not read them.
    """

    def __init__(self, model_patcher: Any, recorder: LatentRecorder, keep_unconditional: bool = False) -> None:
        super().__init__(model_patcher)
        self.recorder = recorder
        self.keep_unconditional = keep_unconditional

    def outer_predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: int | None = None
    ) -> Tensor:
        model_options = model_options or {}
        tap = UnconditionalTap()
        if self.keep_unconditional or sampler_hooks(model_options, self.model_options):
            model_options = tap.added_to(model_options)
        prediction = super().outer_predict_noise(x, timestep, model_options, seed)
        self.recorder.add(float(timestep.max()), x, prediction, tap.value)
        return prediction


class RedenoiseGuider(CharacterGuider):
    """Answers the sampler from the cache and, from `masks.start` on, puts the characters' predictions into it.

    The base model is never evaluated. A call costs one guided evaluation per character from step `start` on and nothing
    before. The background follows the cached trajectory bit for bit. Members with a MODEL of their own are predicted by
    it, on the same latents. After sampling, `calls` has what the sampler was given: the calls of a cache of this pass.

    Args:
        model_patcher: The identity generator.
        cache: The template's calls.
        masks: One mask per member of `cast`, in that order.
        cast: The characters to put in; may be empty.
        soft_edge: Blend mask edges by coverage in place of selecting whole latent cells.
        guidance: One of `core.guidance.GUIDANCE`; the template's needs a cache with unconditional predictions.
        regions: What the identity generator sees for each member of `cast`; None: the whole picture for everybody.
    """

    def __init__(
        self,
        model_patcher: Any,
        cache: NoisyLatentCache,
        masks: ProgressiveMasks,
        cast: Cast,
        soft_edge: bool = False,
        guidance: str = OWN,
        regions: Sequence[Region] | None = None,
    ) -> None:
        everything = Region.everything(cache.noise.shape[-2], cache.noise.shape[-1])
        self.regions_of_cast = [everything] * len(cast) if regions is None else list(regions)
        by_model: dict[int, list[tuple[CastMember, Region]]] = {id(model_patcher): []}
        places = []
        for member, region in zip(cast, self.regions_of_cast, strict=True):
            group = by_model.setdefault(id(model_patcher if member.model is None else member.model), [])
            places.append((group, len(group)))
            group.append((member, region))
        drawn, *others = by_model.values()
        super().__init__(model_patcher, *_unzipped(drawn))
        self.others = [OwnModelGuider(group[0][0].model, *_unzipped(group)) for group in others]
        guiders = {id(group): guider for group, guider in zip([drawn, *others], [self, *self.others], strict=True)}
        self.places = [(guiders[id(group)], index) for group, index in places]
        self.cache = cache
        self.masks = masks
        self.soft_edge = soft_edge
        self.guidance = guidance
        self.replay = CacheReplay(cache.calls, cache.recipe.sampler_name)
        self.arrived = False
        self.calls: list[ModelCall] = []

    def sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Any,
        sigmas: Tensor,
        denoise_mask: Tensor | None = None,
        callback: Any = None,
        disable_pbar: bool = False,
        seed: int | None = None,
    ) -> Tensor:
        """Sample as the host does, while the other MODELs are ready to predict their characters."""
        run = partial(super().sample, noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed)
        for other in reversed(self.others):
            other.set_cfg(self.cfg)
            levels = sigmas.clone()  # some solvers write into theirs
            run = partial(other.while_ready, run, noise, latent_image, levels, denoise_mask=denoise_mask, seed=seed)
        return run()

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
        if step >= self.masks.start and self.places:
            self._check_trajectory(call, x)
            prediction, unconditional = self._put_characters_in(
                x, timestep, prediction, unconditional, step, model_options, len(hooks), seed
            )
            call = _changed(call, x, prediction, unconditional)
        self.calls.append(call)
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
        options = without_last_hooks(model_options, hook_count)
        predictions, unconditionals = [], []
        given = background_unconditional if self.guidance == TEMPLATES else None
        shared = {id(guider): Unconditionals(given) for guider, _ in self.places} if self.guidance != OWN else {}
        for (guider, index), region in zip(self.places, self.regions_of_cast, strict=True):
            if self.others:
                guider.make_current(x)
            prediction, unconditional = guider.predict(
                index, x, timestep, options, hook_count > 0, seed, shared.get(id(guider))
            )
            predictions.append(region.paste(prediction, background))
            if unconditional is not None and background_unconditional is not None:
                unconditionals.append(region.paste(unconditional, background_unconditional))
        masks = to_latent_grid(self.masks.at(step), x.shape[-2], x.shape[-1], self.soft_edge)
        masks = masks.view(len(masks), *[1] * (x.ndim - 2), *masks.shape[-2:]).to(x.device)
        prediction = composite(background, torch.stack(predictions), masks)
        if given is not None and not unconditionals:
            return prediction, given  # for another pass that is guided by the template's
        if background_unconditional is None or len(unconditionals) < len(self.places):
            return prediction, None if hook_count else background_unconditional  # the template's, for another pass
        return prediction, composite(background_unconditional, torch.stack(unconditionals), masks)


def _unzipped(group: list[tuple[CastMember, Region]]) -> tuple[Cast, list[Region]]:
    return tuple(member for member, _ in group), [region for _, region in group]


def _changed(call: ModelCall, x: Tensor, prediction: Tensor, unconditional: Tensor | None) -> ModelCall:
    """The call as this pass made it, kept as the template's was."""
    stored = {"device": "cpu", "dtype": call.prediction.dtype, "copy": True}
    return replace(
        call,
        prediction=prediction.detach().to(**stored),
        latent=None if call.latent is None else x.detach().to(**stored),
        unconditional=None if unconditional is None else unconditional.detach().to(**stored),
    )


def _on_device(stored: Tensor, like: Tensor) -> Tensor:
    """A copy the sampler may write into; the cache stays as it is."""
    return stored.to(like.device, like.dtype, copy=True)
