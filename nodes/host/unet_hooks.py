"""Seeing and changing the attention layers of one model call.

Nothing is registered on the model. What takes part in a sampling lies in that sampling's own options
(`with_participant`). A model call in which it has something to do gets its DIFFUSION_MODEL wrapper, which passes
`with_hooks(transformer_options, ...)` on in place of the options it was given, so a hook lives as long as the call does
and reaches no ControlNet, text encoder or VAE. What other packs put into those options stays in force: their attention
override makes every attention that ours asks for, their attn1 and attn2 patches run as before, and a layer whose
attention they replaced is still theirs.

Compiled models (the host's node TorchCompileModel): code that torch.compile made of one call is run again for other
calls without a look at the transformer options, since the host drops the guards on them. Hooks would be missed, or
remembered where there are none. So a call with hooks runs uncompiled, and every other call runs compiled without a
trace of ours in its options.
"""

import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY
from torch import Tensor

from ...core.attention_hooks import Hook, Layer
from ...core.map_reader import MapReader

OUR_OPTIONS = "story_identity_"
"""How the names of all transformer options of this pack begin."""

_KEY = "story_identity_attention"

Options = dict[str, Any]
"""The host's transformer options."""


def refuse_other_than_unet(model: Any, who: str) -> None:
    """Raise a ValueError if a MODEL has no attention layers of the kind that `with_hooks` reaches."""
    config = model.model.model_config
    if not isinstance(model.model.diffusion_model, UNetModel) or config.unet_config.get("use_temporal_attention"):
        raise ValueError(
            f"{who} needs a UNet such as those of SD1.5 and SDXL; this MODEL is {type(config).__name__}. Load another "
            "checkpoint."
        )


def refuse_several_gpus(model: Any, who: str) -> None:
    """Raise a ValueError if the host divides a MODEL's calls over several GPUs, each in its own thread."""
    if model.get_additional_models_with_key("multigpu"):
        raise ValueError(f"{who} works on one GPU; take MultiGPU CFG Split out of the MODEL's way.")


class Participant(ABC):
    """What may hook the attention in the model calls of one sampling."""

    @abstractmethod
    def wants(self, options: Options) -> bool:
        """Whether it has something to do in a model call with these transformer options."""

    @abstractmethod
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
        """The DIFFUSION_MODEL wrapper of the calls that it wants."""


class Attach(Protocol):
    """How the attention of one call is hooked, whatever the network."""

    def __call__(
        self, options: Options, self_attention: Hook | None = None, reader: MapReader | None = None
    ) -> Options:
        """A copy of the call's options in which self-attention calls the hook, and the reader looks at the text's."""
        ...


class HookingParticipant(Participant):
    """One that needs nothing of a call but its pictures, its options and its attention; for UNets and transformers."""

    @abstractmethod
    def hook_call(self, x: Tensor, options: Options, attach: Attach, call: Callable[[Options], Tensor]) -> Tensor:
        """Evaluate `call`, with the options as they are or hooked by `attach`.

        Args:
            x: The pictures of the call's rows.
            options: Its transformer options.
            attach: Hooks a copy of them.
            call: The model's call, with any transformer options.
        """

    @abstractmethod
    def report(self, reason: str) -> None:
        """Hear why a call could not be hooked."""

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
        """The DIFFUSION_MODEL wrapper of a UNet's calls."""

        def call(options: Options) -> Tensor:
            return executor(x, timesteps, context, y, control, options, **more)

        return self.hook_call(x, transformer_options, _attach, call)


def with_participant(
    options: Options, key: str, participant: Participant, around: Callable[..., Tensor] | None = None
) -> Options:
    """A copy of a sampling's transformer options in which somebody takes part.

    Args:
        options: The transformer options of a guider, before or while it samples.
        key: The participant's name in them; it begins with `OUR_OPTIONS`.
        participant: Lives in the options as long as they do.
        around: The APPLY_MODEL wrapper by which it takes part; None: that of UNets.
    """
    wrappers = options.get("wrappers", {})
    inside = {**wrappers.get(WrappersMP.APPLY_MODEL, {}), _KEY: [around or _apply_model]}
    return {**options, key: participant, "wrappers": {**wrappers, WrappersMP.APPLY_MODEL: inside}}


def _apply_model(
    executor: Any,
    x: Tensor,
    t: Tensor,
    c_concat: Tensor | None = None,
    c_crossattn: Tensor | None = None,
    control: Any = None,
    transformer_options: Options | None = None,
    **more: Any,
) -> Tensor:
    """The APPLY_MODEL wrapper, which is around compiled code: a call that a participant wants runs uncompiled."""
    given = transformer_options or {}
    parts = {key: value for key, value in given.items() if isinstance(value, Participant)}
    wanted = {key: [part.evaluate] for key, part in parts.items() if part.wants(given)}
    if wanted:
        options = {key: value for key, value in given.items() if key not in parts}
        wrappers = given["wrappers"]
        inside = {**wrappers.get(WrappersMP.DIFFUSION_MODEL, {}), **wanted}
        options["wrappers"] = {**wrappers, WrappersMP.DIFFUSION_MODEL: inside}
    else:
        options = {key: value for key, value in given.items() if not key.startswith(OUR_OPTIONS)}
    with uncompiled() if wanted else nullcontext():
        return executor(x, t, c_concat, c_crossattn, control, options, **more)


def uncompiled() -> AbstractContextManager[Any]:
    """A context in which whatever torch.compile made runs as it was before; before PyTorch 2.6 there is none."""
    if "torch._dynamo" not in sys.modules or not hasattr(torch.compiler, "set_stance"):
        return nullcontext()  # nothing was ever compiled, and that import takes seconds
    return torch.compiler.set_stance("force_eager")


_warned: WeakKeyDictionary[Callable[..., Any], set[str]] = WeakKeyDictionary()
"""Who warned of which compiled MODEL, known by the wrapper that the host's node made for it."""


def warn_if_compiled(model: Any, who: str, calls: str) -> None:
    """Log, once for each compiled MODEL, that it is not faster where its attention is hooked.

    Args:
        model: The MODEL that is about to be sampled.
        who: Who hooks its attention.
        calls: Which of the model's calls are hooked.

    Raises:
        ValueError: If the MODEL is compiled, and this PyTorch cannot run it uncompiled.
    """
    for compiled in model.get_wrappers(WrappersMP.APPLY_MODEL, COMPILE_KEY):
        if not hasattr(torch.compiler, "set_stance"):
            raise ValueError(
                f"{who}: on a MODEL from TorchCompileModel this needs PyTorch 2.6 or newer; here is "
                f"{torch.__version__}. Update PyTorch, or take TorchCompileModel out of the MODEL's way."
            )
        warned = _warned.setdefault(compiled, set())
        if who not in warned:
            warned.add(who)
            message = "%s: the MODEL is compiled, and compiled code cannot be hooked: %s run uncompiled."
            logging.warning(message, who, calls)


def with_hooks(options: Options, self_attention: Hook | None = None, cross_attention: Hook | None = None) -> Options:
    """A copy of a call's transformer options in which the attention layers call the hooks.

    A layer is named as the host does: ("input", 4, 0) is the first transformer layer of input block 4.

    A cross-attention hook calls `attend` once, with the q, k and v it was given: where IP-Adapter or the like replaces
    the layer, `attend` is that replacement. A self-attention hook may call it as often as it likes, with other keys; it
    is not called where the layer is replaced (perturbed-attention guidance). Attention that comes with a mask, or
    already split into heads, is left alone.
    """
    hooks = {"attn1": self_attention, "attn2": cross_attention}
    call = _HookedCall({kind: hook for kind, hook in hooks.items() if hook is not None}, options)
    patches = dict(options.get("patches", {}))
    for kind in call.hooks:
        patches[f"{kind}_patch"] = [*patches.get(f"{kind}_patch", []), partial(call.announce, kind)]
    hooked = {**options, "patches": patches, "optimized_attention_override": call.override}
    replaced = options.get("patches_replace", {})
    if cross_attention is not None and replaced.get("attn2"):
        watched = {key: partial(call.watch, patch) for key, patch in replaced["attn2"].items()}
        hooked["patches_replace"] = {**replaced, "attn2": watched}
    return hooked


def _attach(options: Options, self_attention: Hook | None = None, reader: MapReader | None = None) -> Options:
    """How a UNet's calls are hooked."""
    return with_hooks(options, self_attention, None if reader is None else reader.read)


class _HookedCall:
    """The hooks of one call, and the one that the next attention is for.

    The host's override does not learn whether the call is self- or cross-attention, nor whether a layer made it.
    So a patch just before each layer announces it, and the first attention after that takes the announcement down.
    """

    def __init__(self, hooks: dict[str, Hook], options: Options) -> None:
        self.hooks = hooks
        self.others = options.get("optimized_attention_override")
        self.replaced = options.get("patches_replace", {})
        self.announced: Hook | None = None

    def announce(self, kind: str, n: Tensor, context: Tensor, value: Tensor, extra: Options) -> tuple[Tensor, ...]:
        taken, block = self.replaced.get(kind, {}), extra["block"]
        self.announced = None if block in taken or (*block, extra["block_index"]) in taken else self.hooks[kind]
        return n, context, value

    def override(self, attention: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kw: Any) -> Tensor:
        attend = attention if self.others is None else partial(self.others, attention)
        hook, self.announced = self.announced, None
        if hook is None or args or kw.get("mask") is not None or kw.get("skip_reshape"):
            return attend(q, k, v, heads, *args, **kw)
        return hook(q, k, v, heads, _layer(kw["transformer_options"]), partial(attend, **kw))

    def watch(self, replacement: Any, q: Tensor, k: Tensor, v: Tensor, extra: Options) -> Tensor:
        """A cross-attention that somebody replaced: our hook sees it, theirs makes the result."""
        return self.hooks["attn2"](
            q, k, v, extra["n_heads"], _layer(extra), lambda q, k, v, heads: replacement(q, k, v, extra)
        )


def _layer(options: Options) -> Layer:
    height, width = options["activations_shape"][2:]
    return Layer((*options["block"], options["block_index"]), (height, width))
