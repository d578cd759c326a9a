"""Frames that are evaluated one by one within one sampling.

In most diffusion transformers prompts of different lengths cannot share a call of the model: what pads the shorter one
changes what is drawn. So the sampler runs on the batch of all frames, and each of its calls becomes one call per frame,
with the frame's own prompt. Where nothing is shared, every frame is what it is when sampled alone.

All of it lies in the options of one sampling, as wrappers; nothing lies on the MODEL.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .character_guider import WRAPPER_STATE
from .frame_groups import ROWS, Conds, of_group
from .story_prompts import OWN_ROWS, OWN_SHAPES
from .unet_hooks import Options, Participant, with_participant

_KEY = "story_identity_frame_calls"


def need_own_calls(conds: Conds) -> bool:
    """Whether a guider's prompts cannot share a call: rows of different lengths, or what has no rows."""
    return any(OWN_SHAPES in cond or OWN_ROWS in cond for entries in conds.values() for cond in entries)


class FrameCalls:
    """The frames of one sampling, each with its prompts and with what takes part in its calls.

    Args:
        guider: The guider that is about to sample; its prompts are those of all frames, not yet prepared.
        participants: Per frame, what takes part in its model calls; None: nothing does.
        key: The participants' name in the transformer options.
        around: The APPLY_MODEL wrapper by which they take part.
        before: Called before every call of the sampler.
        at_once: How many frames' memory the host should reckon with.
    """

    def __init__(
        self,
        guider: Any,
        participants: Sequence[Participant | None],
        key: str,
        around: Callable[..., Tensor],
        before: Callable[[], None] = lambda: None,
        at_once: int = 1,
    ) -> None:
        self.guider, self.participants, self.key, self.around = guider, participants, key, around
        self.before, self.at_once = before, at_once
        self.raw: Conds = {kind: list(entries) for kind, entries in guider.conds.items()}
        self.prepared: list[Conds] = []
        self.states: list[Options] = []

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """While the context is open, the guider's sampling goes frame by frame."""
        own = self.guider.model_options
        options = own.get("transformer_options", {})
        wrappers = {kind: dict(by_key) for kind, by_key in options.get("wrappers", {}).items()}
        for kind, wrapper in (
            (WrappersMP.PREPARE_SAMPLING, self._load),
            (WrappersMP.SAMPLER_SAMPLE, self._sample),
            (WrappersMP.PREDICT_NOISE, self._predict),
        ):
            wrappers.setdefault(kind, {})[_KEY] = [wrapper]
        own["transformer_options"] = {**options, "wrappers": wrappers}
        try:
            yield
        finally:
            own["transformer_options"] = options

    def _load(self, executor: Any, model: Any, noise_shape: Sequence[int], *args: Any, **more: Any) -> Any:
        """The PREPARE_SAMPLING wrapper: the model is given fewer pictures at a time than the sampler."""
        return executor(model, torch.Size((min(self.at_once, noise_shape[0]), *noise_shape[1:])), *args, **more)

    def _sample(
        self,
        executor: Any,
        guider: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """The SAMPLER_SAMPLE wrapper: prepares every frame's prompts as the host did those of the batch."""
        frames, whole = len(noise), guider.conds
        options = extra_args["model_options"].get("transformer_options", {})
        for frame in range(frames):
            row = slice(frame, frame + 1)
            cut = of_group(self.raw, row, frames, noise.shape[2:])
            images, masks = (None if each is None else each[row] for each in (latent_image, denoise_mask))
            self.prepared.append(
                comfy.samplers.process_conds(
                    guider.inner_model, noise[row], cut, noise.device, images, masks, extra_args.get("seed")
                )
            )
            self.states.append({key: copy.deepcopy(options[key]) for key in WRAPPER_STATE if key in options})
        try:
            return executor(guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar)
        finally:
            guider.conds = whole
            self.prepared, self.states = [], []

    def _predict(
        self,
        executor: Any,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any] | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """The PREDICT_NOISE wrapper: one call per frame, in order."""
        self.before()
        predictions = []
        for frame, participant in enumerate(self.participants):
            self.guider.conds = self.prepared[frame]
            row = slice(frame, frame + 1)
            options = self._options(model_options or {}, frame, participant)
            predictions.append(executor(x[row], timestep[row] if timestep.numel() > 1 else timestep, options, seed))
        return torch.cat(predictions)

    def _options(self, model_options: dict[str, Any], frame: int, participant: Participant | None) -> dict[str, Any]:
        """The options of a frame's call; wrappers that remember calls (EasyCache) remember each frame's apart."""
        options = {**model_options.get("transformer_options", {}), **self.states[frame]}
        options[ROWS] = slice(frame, frame + 1)
        if participant is not None:
            options = with_participant(options, self.key, participant, self.around)
        return {**model_options, "transformer_options": options}
