"""Seeing and changing the attention layers of one model call.

Nothing is registered on the model. A DIFFUSION_MODEL wrapper passes `with_hooks(transformer_options, ...)` on in place
of the options it was given, so a hook lives as long as the call does and reaches no ControlNet, text encoder or VAE.
What other packs put into those options stays in force: their attention override makes every attention that ours asks
for, their attn1 and attn2 patches run as before, and a layer whose attention they replaced is still theirs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor

Options = dict[str, Any]
"""The host's transformer options."""

Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""(q, k, v, heads) -> out, each `(rows, tokens, heads * width)`: what the layer would do without the hook."""


@dataclass(frozen=True)
class Layer:
    """Which attention layer of the UNet it is.

    Args:
        block: As the host names it: ("input", 4), ("middle", 0), ("output", 3).
        index: Of the transformer layer in that block.
        grid: Height and width of the layer's picture tokens.
    """

    block: tuple[str, int]
    index: int
    grid: tuple[int, int]


Hook = Callable[[Tensor, Tensor, Tensor, int, Layer, Attend], Tensor]
"""(q, k, v, heads, layer, attend) -> out, after the projections of q, k and v and before that of the result.

A cross-attention hook calls `attend` once, with the q, k and v it was given: where IP-Adapter or the like replaces the
layer, `attend` is that replacement. A self-attention hook may call it as often as it likes, with other keys; it is not
asked where the layer is replaced (perturbed-attention guidance).
"""


def refuse_other_than_unet(model: Any, who: str) -> None:
    """Raise a ValueError if a MODEL has no attention layers of the kind that `with_hooks` reaches."""
    config = model.model.model_config
    if not isinstance(model.model.diffusion_model, UNetModel) or config.unet_config.get("use_temporal_attention"):
        raise ValueError(
            f"{who} needs a UNet such as those of SD1.5 and SDXL; this MODEL is {type(config).__name__}. Load another "
            "checkpoint."
        )


def with_hooks(options: Options, self_attention: Hook | None = None, cross_attention: Hook | None = None) -> Options:
    """A copy of a call's transformer options in which the attention layers ask the hooks.

    Attention that comes with a mask, or already split into heads, is left alone.
    """
    hooks = {"attn1": self_attention, "attn2": cross_attention}
    call = _HookedCall({kind: hook for kind, hook in hooks.items() if hook is not None}, options)
    patches = dict(options.get("patches", {}))
    for kind in call.hooks:
        patches[f"{kind}_patch"] = [*patches.get(f"{kind}_patch", []), partial(call.announce, kind)]
    hooked = {**options, "patches": patches, "optimized_attention_override": call.override}
    replaced = options.get("patches_replace", {})
    if cross_attention is not None and replaced.get("attn2"):
        beside = {key: partial(call.beside, patch) for key, patch in replaced["attn2"].items()}
        hooked["patches_replace"] = {**replaced, "attn2": beside}
    return hooked


class _HookedCall:
    """The hooks of one call, and the one that the next attention is for.

    The host's override is told neither whether it is asked for self- or cross-attention nor whether by a layer at all.
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

    def beside(self, replacement: Any, q: Tensor, k: Tensor, v: Tensor, extra: Options) -> Tensor:
        """A cross-attention that somebody replaced: our hook sees it, theirs makes the result."""
        return self.hooks["attn2"](
            q, k, v, extra["n_heads"], _layer(extra), lambda q, k, v, heads: replacement(q, k, v, extra)
        )


def _layer(options: Options) -> Layer:
    height, width = options["activations_shape"][2:]
    return Layer(options["block"], options["block_index"], (height, width))
