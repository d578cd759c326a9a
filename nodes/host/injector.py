"""The ID injector on the host's UNets (Storynizor, section 3.2, equations 9 to 13).

While the host samples, every cross-attention layer adds what the identity tokens say to what the prompt says: each
frame asks the tokens of the references it was dealt, and the unconditional rows those of no reference. Keys and values
are made once per sampling and layer. They lie in the sampling's own options, which the host makes for it and throws
away; nothing lies on the MODEL.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...core import adapter_file
from ...core.dealing import Person
from ...core.injector import decoupled_attention
from ...core.layout import Layout
from ...core.quoting import quote, quote_all
from ...core.shuffle import deal_tokens
from ...core.story import Frame
from . import photomaker as pm
from .adapters import IDAdapter, cross_attention_widths
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
from .frame_groups import ROWS

_WHO = "Shuffled ID Injector"
_KEY = "story_identity_injector"

_AREA = "a prompt has an area of its own"

_Projected = tuple[Tensor, Tensor]
"""Keys and values of one layer, a row per reference."""


@dataclass(frozen=True)
class IDInjection:
    """What the injector does, and the wrappers that do it.

    Args:
        adapter: Whose layers are asked.
        people: Whose faces are known.
        frames: All of the story, sampled as one batch; or a single one, of which every row of the batch is.
        layouts: Where each face may appear, one layout per frame; or none.
        mode: How the references were dealt, see `core.shuffle`.
        weight: 0 leaves the MODEL as it is, 1 is as trained.
        start: Inject from here on, as a share of the noise schedule, 0 to 1.
        end: Inject until here.
        lora_strength: Strength of FaceID's own LoRA, where the file has one.
    """

    adapter: IDAdapter
    people: tuple[Person, ...]
    frames: tuple[Frame, ...]
    layouts: tuple[Layout, ...] = ()
    mode: str = "shuffled"
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    lora_strength: float = 1.0

    def __post_init__(self) -> None:
        if not self.start < self.end:
            raise ValueError(f"{_WHO}: it starts at {self.start} and ends at {self.end}; the end must be greater.")
        if self.layouts and len(self.layouts) != len(self.frames):
            raise ValueError(
                f"{_WHO}: there are {len(self.layouts)} layouts for {len(self.frames)} frames. Make one layout for "
                "each frame of the story; or connect the frames, to make some of them one by one."
            )
        for frame, layout in zip(self.frames, self.layouts, strict=False):
            for name in _together(self.people, frame):
                if name not in layout.names:
                    raise ValueError(
                        f"{frame.label}: the layout has {quote_all(layout.names) or 'nobody'}, but no mask for "
                        f"{quote(name)}, whose face is to be injected. Make the layout with this frame."
                    )

    def added_to(self, model: Any) -> Any:
        """A clone of the MODEL with the wrappers and FaceID's LoRA; a plain clone at weight 0.

        Raises:
            ValueError: If the MODEL is no UNet, the adapter is made for another, or the MODEL has an injector already.
        """
        refuse_other_than_unet(model, _WHO)
        if model.get_wrappers(WrappersMP.OUTER_SAMPLE, _KEY):
            raise ValueError(
                f"This MODEL has a {_WHO} already. Give all characters to one: chain their Face Features nodes."
            )
        file, widths = self.adapter.file, cross_attention_widths(model)
        numbers = file.place(widths, model.model.model_config.unet_config["context_dim"])
        if self.weight == 0:
            return model.clone()
        self._warn_of_mixing()
        lora = file.host_lora(widths) if self.lora_strength else {}
        patched = model.clone()
        if lora:
            patched = pm.apply_lora(model, lora, self.lora_strength, file.name, file.config.cross_width)
        patched.set_additional_models(_KEY, [self.adapter.patcher])
        patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, _KEY, partial(self._sample, numbers))
        return patched

    def _warn_of_mixing(self) -> None:
        for frame in () if self.layouts else self.frames:
            together = _together(self.people, frame)
            if together and len(frame.cast) > 1:
                cast, faces = quote_all((each.name for each in frame.cast), 5), quote_all(together, 5)
                message = "%s: %s shows %s and there is no layout: the face of %s acts on all of them. Connect layouts."
                logging.warning(message, _WHO, frame.label, cast, faces)

    def _sample(
        self, numbers: Mapping[adapter_file.Layer, int], executor: Any, noise: Tensor, *args: Any, **more: Any
    ) -> Tensor:
        """The OUTER_SAMPLE wrapper: check, then sample with what this sampling is about to know."""
        guider = executor.class_obj
        options = guider.model_options.get("transformer_options", {})
        self._check(guider, noise, options.get(ROWS))
        warn_if_compiled(guider.model_patcher, _WHO, "the steps between start_percent and end_percent")
        sampling = guider.model_patcher.get_model_object("model_sampling")
        first, last = (float(sampling.percent_to_sigma(each)) for each in (self.start, self.end))
        run = _Run(self, numbers, _Prompts.of(guider.conds), first, last, tuple(noise.shape[2:]))
        guider.model_options["transformer_options"] = with_participant(options, _KEY, run)
        try:
            return executor(noise, *args, **more)
        finally:
            guider.model_options["transformer_options"] = options

    def _check(self, guider: Any, noise: Tensor, rows: slice | None) -> None:
        """Everything that can be seen before the first UNet call."""
        expected = len(self.frames[rows] if rows else self.frames)
        if noise.ndim != 4 or len(noise) != expected and len(self.frames) > 1:
            raise ValueError(
                f"{_WHO}: the LATENT holds {len(noise)} pictures, the story has {len(self.frames)} frames. Connect the "
                "frames output of Encode Story to the batch_size of Empty Latent Image; or connect a frame of Story "
                "Frames to this node, to make one at a time."
            )
        refuse_several_gpus(guider.model_patcher, _WHO)
        for layout in self.layouts:
            height, width = layout.size
            if height * noise.shape[3] != width * noise.shape[2]:
                raise ValueError(
                    f"{layout.label}: the layout is of a picture of {width}x{height} pixels, the LATENT has "
                    f"{noise.shape[3]}x{noise.shape[2]} cells; the proportions differ. Use the size with which the "
                    "layout was made."
                )

    def mask(self, person: Person, position: int, grid: tuple[int, int]) -> Tensor:
        """Where a face acts in the frame at this position, `(h * w,)` in [0, 1]."""
        pixels = person.mask(self.frames[position], self.layouts[position] if self.layouts else None)
        return torch.nn.functional.adaptive_avg_pool2d(pixels.unsqueeze(0), grid).flatten()


@dataclass(frozen=True)
class _Prompts:
    """A sampling's prompts by their uuids, which tell more than their order: guiders order them as they like."""

    conditional: frozenset[UUID]
    unconditional: frozenset[UUID]
    areas: frozenset[UUID]

    @classmethod
    def of(cls, conds: Mapping[str, Sequence[Mapping[str, Any]]]) -> "_Prompts":
        """A guider's prompts. "positive 0" is the re-denoise pass's, "middle" that of dual CFG."""
        entries = [(kind.startswith(("positive", "middle")), cond) for kind, given in conds.items() for cond in given]
        return cls(
            frozenset(cond["uuid"] for conditional, cond in entries if conditional),
            frozenset(cond["uuid"] for conditional, cond in entries if not conditional),
            frozenset(cond["uuid"] for _, cond in entries if cond.get("area") or cond.get("set_area_to_bounds")),
        )

    def is_unconditional(self, uuid: UUID, order: int) -> bool:
        """A prompt that a guider made up itself goes by its place in the call, where 0 is the conditional one."""
        return uuid in self.unconditional or uuid not in self.conditional and order != 0


@dataclass
class _Run(Participant):
    """One sampling.

    Args:
        settings: What the injector does.
        numbers: Which of the adapter's projections belong to which layer.
        prompts: The prompts.
        first: The noise level at which injection begins.
        last: The one at which it ends.
        size: Height and width of the latents.
    """

    settings: IDInjection
    numbers: Mapping[adapter_file.Layer, int]
    prompts: _Prompts
    first: float
    last: float
    size: tuple[int, ...]
    projected: dict[int, list[tuple[_Projected, _Projected]]] = field(default_factory=dict)
    masks: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    warned: bool = False

    def wants(self, options: Options) -> bool:
        """Whether a call's noise level is in range."""
        return self.last <= float(options["sigmas"].max()) <= self.first

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
        if self.serves(x, transformer_options):
            hook = partial(self.inject, self.kinds(transformer_options), self.positions(x, transformer_options))
            transformer_options = with_hooks(transformer_options, cross_attention=hook)
        return executor(x, timesteps, context, y, control, transformer_options, **more)

    def serves(self, x: Tensor, options: Options) -> bool:
        """Whether faces are injected into a call: it has all rows, whole."""
        if tuple(x.shape[2:]) != self.size:
            return self._plain(_AREA)
        rows = len(options["uuids"]) * len(self.positions(x, options))
        if len(x) != rows:
            return self._plain(f"the model is called with {len(x)} pictures of {rows} (context windows)")
        return True

    def kinds(self, options: Options) -> list[bool | None]:
        """Per prompt of a call, whether it is unconditional; None if it has an area, be it of the whole picture."""
        if not self.prompts.areas.isdisjoint(options["uuids"]):
            self._plain(_AREA)
        pairs = zip(options["uuids"], options["cond_or_uncond"], strict=True)
        return [
            None if uuid in self.prompts.areas else self.prompts.is_unconditional(uuid, order) for uuid, order in pairs
        ]

    def positions(self, x: Tensor, options: Options) -> list[int]:
        """Per row of one prompt, which of the settings' frames it is."""
        frames = list(range(len(self.settings.frames)))
        if len(frames) == 1:
            return frames * (len(x) // len(options["uuids"]))
        return frames[options.get(ROWS, slice(None))]

    def inject(
        self,
        kinds: list[bool | None],
        positions: list[int],
        q: Tensor,
        k: Tensor,
        v: Tensor,
        heads: int,
        layer: Layer,
        attend: Attend,
    ) -> Tensor:
        """The cross-attention hook (equation 13)."""
        text = attend(q, k, v, heads)
        if tuple(q.shape[:2]) != (len(kinds) * len(positions), layer.grid[0] * layer.grid[1]):
            self._plain(f"another patch changes the tokens of block {layer.block} (token merging, tiling)")
            return text
        chunks = zip(kinds, text.chunk(len(kinds)), q.chunk(len(kinds)), strict=True)
        return torch.cat(
            [
                decoupled_attention(
                    own_text,
                    own_q,
                    list(self._people(unconditional, positions, layer, own_q)),
                    heads,
                    self.settings.weight,
                    optimized_attention,
                )
                for unconditional, own_text, own_q in chunks
            ]
        )

    def _people(
        self, unconditional: bool | None, positions: list[int], layer: Layer, q: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Keys, values and mask of all who are in one of the frames, a row per frame; of nobody for a kind of None."""
        if unconditional is None:
            return
        settings = self.settings
        masks = self._masks(layer.grid, q)
        for person, mask, (given, blank) in zip(settings.people, masks, self._projections(layer, q), strict=True):
            if any(settings.frames[each].index in person.dealt for each in positions):
                if unconditional:
                    k, v = (each.repeat(len(positions), 1, 1) for each in blank)
                else:
                    dealt = [person.references(settings.frames[each]) for each in positions]
                    k, v = (deal_tokens(each, dealt, settings.mode) for each in given)
                yield k, v, mask[positions]

    def _projections(self, layer: Layer, q: Tensor) -> list[tuple[_Projected, _Projected]]:
        """Per person keys and values of the references and of no reference."""
        number = self.numbers[(*layer.block, layer.index)]
        if number not in self.projected:
            projections = self.settings.adapter.network.layer(number)
            self.projected[number] = [
                (projections(person.tokens.to(q)), projections(person.blank.to(q))) for person in self.settings.people
            ]
        return self.projected[number]

    def _masks(self, grid: tuple[int, int], q: Tensor) -> Tensor:
        """`(people, frames, h * w)`."""
        if grid not in self.masks:
            settings = self.settings
            rows = [
                [settings.mask(person, position, grid) for position in range(len(settings.frames))]
                for person in settings.people
            ]
            self.masks[grid] = torch.stack([torch.stack(each) for each in rows]).to(q)
        return self.masks[grid]

    def _plain(self, reason: str) -> bool:
        if not self.warned:
            logging.warning("%s: %s; no faces are injected there.", _WHO, reason)
        self.warned = True
        return False


def _together(people: Sequence[Person], frame: Frame) -> list[str]:
    """Who of these people is in a frame."""
    return [person.name for person in people if frame.index in person.dealt]
