"""The ID injector on the host's UNets (Storynizor, section 3.2, equations 9 to 13; `core.face_injection`).

Here is what the host adds: the checks before a sampling, and which rows of a model call are which. Keys and values are
made once per sampling and layer; they lie in the sampling's own options, which the host makes for it and throws away.
Nothing lies on the MODEL.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from comfy.ldm.modules.attention import optimized_attention
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...core import adapter_file
from ...core.face_injection import FaceInjection, InjectedCharacter
from ...core.layout import Layout
from ...core.quoting import quote, quote_all
from ...core.reference_assignment import AssignedReferences
from ...core.story import Frame
from . import photomaker as pm
from .adapters import IDAdapter, cross_attention_widths
from .frame_groups import ROWS
from .unet_hooks import (
    Options,
    Participant,
    refuse_other_than_unet,
    refuse_several_gpus,
    warn_if_compiled,
    with_hooks,
    with_participant,
)

_WHO = "Shuffled ID Injector"
INJECTOR = "story_identity_injector"
"""Key of the injector's wrappers."""

_AREA = "a prompt has an area of its own"


@dataclass(frozen=True)
class IDInjection:
    """What the injector does, and the wrappers that do it.

    Args:
        adapter: Whose layers are asked.
        characters: The characters whose faces are known, with their references.
        frames: All of the story, sampled as one batch; or a single one, of which every row of the batch is.
        layouts: Where each face may appear, one layout per frame; or none.
        mode: How the references were assigned, see `core.shuffle`.
        weight: 0 leaves the MODEL as it is, 1 is as trained.
        start: Inject from here on, as a share of the noise schedule, 0 to 1.
        end: Inject until here.
        lora_strength: The strength of FaceID's own LoRA, where the file has one.
    """

    adapter: IDAdapter
    characters: tuple[AssignedReferences, ...]
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
            for name in _together(self.characters, frame):
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
        if model.get_wrappers(WrappersMP.OUTER_SAMPLE, INJECTOR):
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
            patched = pm.patch_unet(model, lora, self.lora_strength, file.name)
        patched.set_additional_models(INJECTOR, [self.adapter.patcher])
        patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, INJECTOR, partial(self._sample, numbers))
        return patched

    def _warn_of_mixing(self) -> None:
        for frame in () if self.layouts else self.frames:
            together = _together(self.characters, frame)
            if together and len(frame.cast) > 1:
                cast, faces = quote_all((each.name for each in frame.cast), 5), quote_all(together, 5)
                message = "%s: %s shows %s and there is no layout: the face of %s acts on all of them. Connect layouts."
                logging.warning(message, _WHO, frame.label, cast, faces)

    def _sample(
        self, numbers: Mapping[adapter_file.Layer, int], executor: Any, noise: Tensor, *args: Any, **more: Any
    ) -> Tensor:
        """The OUTER_SAMPLE wrapper: check, then sample with the state of this sampling in its options."""
        guider = executor.class_obj
        options = guider.model_options.get("transformer_options", {})
        self._check(guider, noise, options.get(ROWS))
        warn_if_compiled(guider.model_patcher, _WHO, "the steps between start_percent and end_percent")
        sampling = guider.model_patcher.get_model_object("model_sampling")
        first, last = (float(sampling.percent_to_sigma(each)) for each in (self.start, self.end))
        prompts, size = _Prompts.of(guider.conds), tuple(noise.shape[2:])
        run = _Run(self._injection(numbers), len(self.frames), prompts, first, last, size)
        guider.model_options["transformer_options"] = with_participant(options, INJECTOR, run)
        try:
            return executor(noise, *args, **more)
        finally:
            guider.model_options["transformer_options"] = options

    def _injection(self, numbers: Mapping[adapter_file.Layer, int]) -> FaceInjection:
        return FaceInjection(
            self.adapter.network,
            [InjectedCharacter.of(each, self.frames, self.layouts) for each in self.characters],
            self.mode,
            self.weight,
            number_of=numbers.__getitem__,
            attend=optimized_attention,
            report=_log_without,
        )

    def _check(self, guider: Any, noise: Tensor, rows: slice | None) -> None:
        """Raise every error that can be found before the first UNet call."""
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


@dataclass(frozen=True)
class _Prompts:
    """The prompts of a sampling by their uuids, since guiders may give them in any order."""

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


@dataclass(frozen=True)
class _Run(Participant):
    """One sampling.

    Args:
        injection: What the injector adds to it.
        frames: How many frames the injector knows.
        prompts: The prompts.
        first: The noise level at which injection begins.
        last: The one at which it ends.
        size: Height and width of the latents.
    """

    injection: FaceInjection
    frames: int
    prompts: _Prompts
    first: float
    last: float
    size: tuple[int, ...]

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
            kinds, frames = self.kinds(transformer_options), self.positions(x, transformer_options)
            hook = partial(self.injection.inject, kinds, frames)
            transformer_options = with_hooks(transformer_options, cross_attention=hook)
        return executor(x, timesteps, context, y, control, transformer_options, **more)

    def serves(self, x: Tensor, options: Options) -> bool:
        """Whether faces are injected into a call: it has all rows, whole."""
        if tuple(x.shape[2:]) != self.size:
            self.injection.report(_AREA)
            return False
        rows = len(options["uuids"]) * len(self.positions(x, options))
        if len(x) != rows:
            self.injection.report(f"the model is called with {len(x)} pictures of {rows} (context windows)")
            return False
        return True

    def kinds(self, options: Options) -> list[bool | None]:
        """Per prompt of a call, whether it is unconditional; None if it has an area, be it of the whole picture."""
        if not self.prompts.areas.isdisjoint(options["uuids"]):
            self.injection.report(_AREA)
        pairs = zip(options["uuids"], options["cond_or_uncond"], strict=True)
        return [
            None if uuid in self.prompts.areas else self.prompts.is_unconditional(uuid, order) for uuid, order in pairs
        ]

    def positions(self, x: Tensor, options: Options) -> list[int]:
        """Per row of one prompt, which of the injector's frames it is."""
        frames = list(range(self.frames))
        if len(frames) == 1:
            return frames * (len(x) // len(options["uuids"]))
        return frames[options.get(ROWS, slice(None))]


def _log_without(reason: str) -> None:
    logging.warning("%s: %s; no faces are injected there.", _WHO, reason)


def _together(characters: Sequence[AssignedReferences], frame: Frame) -> list[str]:
    """The names of these characters who are in a frame."""
    return [each.name for each in characters if frame.index in each.by_frame]
