"""Seeing and changing the attention layers of one call of a diffusion transformer.

Where text and picture are one sequence (joint attention), that sequence is what our hooks get; `Layer` says which of
its tokens are the picture's. The host calls `optimized_attention_override` for every attention, with rotary positions
already in the queries and keys, so one override in a call's own options is all there is. It lives as long as the call,
and chains the override of other packs, which makes every attention that ours asks for.

A network says nowhere where its text and its picture lie; `transformer_families` does. A layer whose sequence is not as
long as expected is left alone. So are the layers that refine text or picture by themselves before they meet.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any

import torch
from comfy.ldm.flux.math import apply_rope1
from torch import Tensor

from ...core.attention import Move
from ...core.attention_hooks import Hook, Layer
from ...core.map_reader import MapReader
from .transformer_families import Family, known_network
from .unet_hooks import OUR_OPTIONS, HookingParticipant, Options, Participant, uncompiled


def apply_transformer(
    executor: Any,
    x: Tensor,
    t: Tensor,
    c_concat: Tensor | None = None,
    c_crossattn: Tensor | None = None,
    control: Any = None,
    transformer_options: Options | None = None,
    **more: Any,
) -> Tensor:
    """The APPLY_MODEL wrapper of calls of a transformer: those that a participant wants run hooked and uncompiled."""
    given = transformer_options or {}
    wanted = [value for value in given.values() if isinstance(value, Participant) and value.wants(given)]
    options = {key: value for key, value in given.items() if not key.startswith(OUR_OPTIONS)}

    def call(options: Options) -> Tensor:
        return executor(x, t, c_concat, c_crossattn, control, options, **more)

    if not wanted:
        return call(options)
    shape = _Shape.of(executor.class_obj, x, c_crossattn, more)
    for participant in wanted:
        assert isinstance(participant, HookingParticipant)
        call = partial(_hooked, participant, x, shape, call)
    with uncompiled():
        return call(options)


def _hooked(
    participant: HookingParticipant, x: Tensor, shape: "_Shape", call: Callable[[Options], Tensor], options: Options
) -> Tensor:
    made: list[_HookedCall] = []

    def attach(options: Options, self_attention: Hook | None = None, reader: MapReader | None = None) -> Options:
        made.append(_HookedCall(shape, options, self_attention, reader))
        return {**options, "optimized_attention_override": made[-1].override}

    result = participant.hook_call(x, options, attach, call)
    for each in made:
        if reason := each.unhooked():
            participant.report(reason)
    return result


@dataclass(frozen=True)
class _Shape:
    """How long the sequences of one call are.

    Args:
        family: Of the network.
        rows: Of the call's batch.
        grid: The picture's height and width in tokens.
        text: Tokens of the text that the network was given.
        padded_text: Tokens that it makes of all texts.
        multiple: Text and pictures are padded to a multiple of so many tokens.
        references: Tokens of the reference pictures, where they lie before the picture.
        first_blocks: How many blocks there are of the first kind.
        text_start: Where the text is among all texts; registers and texts of reference pictures may come first.
    """

    family: Family
    rows: int
    grid: tuple[int, int]
    text: int
    padded_text: int
    multiple: int
    references: int
    first_blocks: int
    text_start: int

    @classmethod
    def of(cls, model: Any, x: Tensor, context: Tensor | None, more: dict[str, Any]) -> "_Shape":
        network = model.diffusion_model
        network = getattr(network, "_orig_mod", network)  # torch.compile puts its own module around it
        family = known_network(network)
        assert family is not None
        patch, multiple = getattr(network, family.patch), getattr(network, "pad_tokens_multiple", None) or 1
        text = 0 if context is None else context.shape[1]
        if family.further_text is not None:
            text += 2 * more[family.further_text].shape[2]
        first, last, references = 0 if family.registers is None else getattr(network, family.registers).shape[1], 0, 0
        if family.references_first:
            pictures, texts = more.get("ref_latents") or [], more.get("ref_contexts") or []
            lengths = [_padded(each.shape[1], multiple) for each in texts]
            if multiple > 1:
                lengths += [multiple] * (len(pictures) - len(texts))  # padding stands for a text that is not there
            first, last = first + sum(lengths[: len(pictures)]), sum(lengths[len(pictures) :])
            references = sum(_padded(_tokens(each.shape, patch), multiple) for each in pictures)
        padded = first + _padded(text, multiple) + last
        grid = (ceil(x.shape[-2] / patch), ceil(x.shape[-1] / patch))
        blocks = len(getattr(network, family.blocks[0]))
        return cls(family, len(x), grid, text, padded, multiple, references, blocks, first)

    def layer(self, total: int, references: int, number: int) -> tuple[Layer, slice] | None:
        """The layer of a sequence, and where its text is; None for a sequence in which they do not meet.

        Args:
            total: Tokens of the sequence.
            references: Those of the reference pictures behind the picture.
            number: Of the block.
        """
        picture = self.grid[0] * self.grid[1]
        padding = _padded(picture, self.multiple) - picture
        if self.family.picture_first:
            text = slice(picture, picture + self.padded_text)
            return (Layer(number, self.grid, 0, self.padded_text, number), text) if total == text.stop else None
        before, after = self.padded_text + self.references, padding + references
        if total == before + picture + after:
            return Layer(number, self.grid, before, after, number), slice(0, self.padded_text)
        if self.family.picture_alone and total == picture:
            return Layer((number - 1, "picture"), self.grid, 0, 0, number - 1), slice(0, 0)
        return None


def _tokens(shape: torch.Size, patch: int) -> int:
    return ceil(shape[-2] / patch) * ceil(shape[-1] / patch)


def _padded(tokens: int, multiple: int) -> int:
    return -(-tokens // multiple) * multiple


class _HookedCall:
    """The hooks of one call, and what it has shown so far."""

    def __init__(self, shape: _Shape, options: Options, self_attention: Hook | None, reader: MapReader | None) -> None:
        self.shape, self.self_attention, self.reader = shape, self_attention, reader
        self.others = options.get("optimized_attention_override")
        self.attentions, self.layers, self.masked, self.text_is_next = 0, 0, False, False

    def unhooked(self) -> str | None:
        """Why layers of the call were not hooked; None: they were."""
        if self.masked:
            return "a mask lets places of the picture see different parts of the text"
        if self.attentions and not self.layers:
            return "another patch changes the number of tokens of the text or the picture"
        return None

    def _cross(self, call: "_Attention") -> Tensor:
        """An attention of the picture to a text apart from it."""
        layer = Layer(self.layers, self.shape.grid)
        if self.reader is not None:
            self.reader.look(call.q, call.k, call.heads, layer.grid, self.shape.text, call.mask)
        return call.plain()

    def override(self, attention: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kw: Any) -> Tensor:
        """What the host calls for every attention."""
        attend = attention if self.others is None else partial(self.others, attention)
        self.attentions += 1
        place = self._place(q, k, kw)
        if place is None or len(args) > 1 or kw.get("skip_output_reshape"):
            return attend(q, k, v, heads, *args, **kw)
        mask = args[0] if args else kw.get("mask")
        if mask is not None and not _is_of_keys(mask):
            self.masked = True
            return attend(q, k, v, heads, *args, **kw)
        call = _Attention(attend, q, k, v, heads, args, kw, _added(mask, q))
        layer, text = place
        if layer is None:
            return self._cross(call)
        if self.reader is not None and text.stop:
            self._look(self.reader, call, layer, text)
        return call.plain() if self.self_attention is None else call.hooked(self.self_attention, layer)

    def _place(self, q: Tensor, k: Tensor, kw: Options) -> tuple[Layer | None, slice] | None:
        """The layer that runs and where its text is; without a layer: the picture's attention to a text apart."""
        axis = 2 if kw.get("skip_reshape") else 1
        if len(q) != self.shape.rows:
            return None
        if self.shape.family.apart:
            return self._place_apart(q.shape[axis], k.shape[axis], kw.get("transformer_options") or {})
        if q.shape[axis] != k.shape[axis]:
            return None
        options = kw.get("transformer_options") or {}
        references = 0
        if not self.shape.family.references_first:
            references = sum(options.get("reference_image_num_tokens", ()))
        place = self.shape.layer(q.shape[axis], references, self._number(options))
        if place is not None and place[1].stop:
            self.layers += 1
        return place

    def _place_apart(self, queries: int, keys: int, options: Options) -> tuple[Layer | None, slice] | None:
        """As text may have as many tokens as the picture, the order within a block decides."""
        picture = self.shape.grid[0] * self.shape.grid[1]
        if queries != picture:
            return None
        if not self.text_is_next and keys == picture:
            self.layers, self.text_is_next, number = self.layers + 1, True, self._number(options)
            return Layer(number, self.shape.grid, 0, 0, number), slice(0, 0)
        if self.text_is_next and keys == self.shape.text:
            self.text_is_next = False
            return None, slice(0, keys)
        return None

    def _number(self, options: Options) -> int:
        """The number of the block that runs; where the host does not say it, that of the layers so far."""
        if "block_index" not in options:
            return self.layers
        return options["block_index"] + (self.shape.first_blocks if options.get("block_type") == "single" else 0)

    def _look(self, reader: MapReader, call: "_Attention", layer: Layer, text: slice) -> None:
        start, mask = text.start + self.shape.text_start, call.mask
        own_first = [slice(start, text.stop), slice(text.start, start)]
        keys = torch.cat([call.k[:, part] for part in own_first], dim=1)
        added = None if mask is None else torch.cat([mask[:, part] for part in own_first], dim=1)
        reader.look(call.q[:, layer.picture], keys, call.heads, layer.grid, self.shape.text, added)


class _Attention:
    """One attention of the host, as our hooks take it: `(rows, tokens, heads * width)`, as many key heads as heads."""

    def __init__(
        self, attend: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, args: Any, kw: Options, mask: Tensor | None
    ) -> None:
        self.split = bool(kw.get("skip_reshape"))
        width = q.shape[-1] if self.split else q.shape[-1] // heads
        self.q, self.k, self.v = (self._flat(each, heads, width) for each in (q, k, v))
        self.heads, self.mask, self.attend = heads, mask, attend
        self.rest = {key: value for key, value in kw.items() if key not in ("mask", "skip_reshape", "enable_gqa")}
        self.plain = partial(attend, q, k, v, heads, *args, **kw)

    def hooked(self, hook: Hook, layer: Layer) -> Tensor:
        """What a self-attention hook makes of it."""
        masks = () if self.mask is None else (self.mask,)
        return hook(self.q, self.k, self.v, self.heads, layer, self.call, *masks)

    def call(self, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
        """The host's attention with any queries and keys; with those that it was given, the very call that it made."""
        if q is self.q and k is self.k and v is self.v:
            return self.plain()
        more = self.rest if mask is None else {**self.rest, "mask": mask[:, None]}
        if not self.split:
            return self.attend(q, k, v, heads, **more)
        q, k, v = (each.unflatten(2, (heads, -1)).transpose(1, 2) for each in (q, k, v))
        return self.attend(q, k, v, heads, skip_reshape=True, **more)

    def _flat(self, tensor: Tensor, heads: int, width: int) -> Tensor:
        if self.split:
            tensor = tensor.transpose(1, 2)
        elif tensor.ndim == 3:
            tensor = tensor.unflatten(2, (-1, width))
        if tensor.shape[2] != heads:
            tensor = tensor.repeat_interleave(heads // tensor.shape[2], dim=2)
        return tensor.flatten(2)


def _is_of_keys(mask: Tensor) -> bool:
    """Whether a mask is the same for every query and every head."""
    return mask.ndim < 2 or (mask.shape[-2] == 1 and (mask.ndim < 4 or mask.shape[1] == 1))


def _added(mask: Tensor | None, q: Tensor) -> Tensor | None:
    """What a mask of keys adds to their scores, `(rows, keys)`."""
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(~mask, -torch.inf)
    return mask.reshape(-1, mask.shape[-1]).to(q.dtype).expand(len(q), -1)


def mover(model: Any, family: Family, options: Options) -> Move:
    """How keys of a model are moved: rotated on by the difference of position, which equals embedding them there.

    Args:
        model: The MODEL.
        family: Its family, one with rotary positions.
        options: The transformer options of the sampling, in which a node may scale positions.
    """
    assert family.rotary is not None
    embed = getattr(model.model.diffusion_model, family.rotary)
    scales = options.get("rope_options") or {}
    scale = torch.tensor([scales.get("scale_y", 1.0), scales.get("scale_x", 1.0)])

    def move(k: Tensor, by: Tensor, heads: int) -> Tensor:
        positions = torch.zeros(1, len(k), len(embed.axes_dim), device=k.device)
        positions[0, :, 1:3] = by.float() * scale.to(k.device)
        keys = k.unflatten(1, (heads, -1)).transpose(0, 1)[None].contiguous()
        turns = embed(positions)
        turns = turns.reshape(1, 1, len(k), *turns.shape[-3:])  # networks put the heads' axis in different places
        return apply_rope1(keys, turns)[0].transpose(0, 1).flatten(1)

    return move
