"""Auto-mask self-attention on the host's UNets (Storynizor, section 3.1, equations 4 to 6).

All frames are one batch. While the host samples, the cross-attention of the prompts that name people is read, and
self-attention lets every frame see the others' people. The masks of a step come from the maps of the steps before it;
the first step is plain. (The paper also uses the layers of the same step that were run before. We do not, so that the
masks of a step do not depend on how the host divides it into calls, and are made once.) Conditional and unconditional
rows use the same masks and never see each other.

What a sampling knows lies in its own options, which the host makes for it and throws away; nothing lies on the MODEL.
"""

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...core.attention import SubjectBank, SubjectPositions, SubjectTokens, attend_across_frames
from ...core.quoting import quote, quote_all
from ...core.story import Story
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
from .frame_groups import ROWS, WholeBatch, groups_of, of_group
from .guiders import WRAPPER_STATE
from .passes import sampler_name_of
from .story_prompts import Named, named_in
from .token_maps import MapReader

_KEY = "story_identity_shared_attention"

LAYERS = {"all": slice(None), "without the largest": slice(1, None), "smallest two": slice(-2, None)}
"""Which of a UNet's grids share, counted from the largest."""


@dataclass(frozen=True)
class SharedAttention:
    """What AMSA does, and the wrappers that do it.

    Args:
        story: Its frames are the batch, in order.
        layers: A key of `LAYERS`. A UNet whose attention has one grid shares on that.
        start: Share from here on, as a share of the noise schedule, 0 to 1.
        end: Share until here.
        strength: 0 (plain attention) to 1.
        threshold: "otsu", or the height at which normalised maps are cut.
        decay: Weight of the maps of earlier steps, 0 to under 1.
        same_character: Let a character's places see that character only.
        anchors: Frames sampled at a time: the first ones together, later ones in groups that also see them. 0: all.
    """

    story: Story
    layers: str = "all"
    start: float = 0.0
    end: float = 1.0
    strength: float = 1.0
    threshold: str | float = "otsu"
    decay: float = 0.5
    same_character: bool = True
    anchors: int = 0

    def __post_init__(self) -> None:
        if not self.start < self.end:
            raise ValueError(f"AMSA: it starts at {self.start} and ends at {self.end}; the end must be greater.")

    def added_to(self, model: Any) -> Any:
        """A clone of the MODEL with the wrappers; a plain clone at strength 0.

        Raises:
            ValueError: If the MODEL is no UNet as SD1.5 and SDXL are, or has the patch already.
        """
        refuse_other_than_unet(model, "AMSA")
        if model.get_wrappers(WrappersMP.OUTER_SAMPLE, _KEY):
            raise ValueError("This MODEL has the AMSA patch already; remove one of the two AMSA Model Patch nodes.")
        patched = model.clone()
        if self.strength > 0:
            patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, _KEY, self.sample)
        return patched

    def sample(
        self,
        executor: Any,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Any,
        sigmas: Tensor,
        denoise_mask: Tensor | None = None,
        callback: Any = None,
        disable_pbar: bool = False,
        seed: int | None = None,
        **more: Any,
    ) -> Tensor:
        """The OUTER_SAMPLE wrapper: check, then sample the frames in one group or in several."""
        guider = executor.class_obj
        self._check(guider, noise, sampler)
        self._warn(len(sigmas) - 1)
        warn_if_compiled(guider.model_patcher, "AMSA", "the steps until end_percent")
        frames, conds, bank, results = len(noise), guider.conds, SubjectBank(), []
        groups = groups_of(frames, self.anchors)
        shown = WholeBatch(callback, groups, noise) if callback is not None and len(groups) > 1 else None
        for number, rows in enumerate(groups):
            guider.conds = of_group(conds, rows, frames) if len(groups) > 1 else conds
            run = self._run(guider, noise[rows].shape)
            if len(groups) > 1:
                run.record, run.see = (bank, None) if number == 0 else (None, bank)
            if "latent_shapes" in more:
                more["latent_shapes"] = [latent_image[rows].shape]
            with _known_to(guider, run, rows):
                result = executor(
                    noise[rows],
                    latent_image[rows],
                    sampler,
                    sigmas.clone(),  # some solvers write into theirs
                    None if denoise_mask is None else denoise_mask[rows],
                    callback if shown is None else shown.of(number),
                    disable_pbar,
                    # the noise that a sampler draws on the way should not be the same in two groups
                    None if seed is None else (seed + rows.start) % 2**64,
                    **more,
                )
            results.append(result)
        return torch.cat(results)

    def _run(self, guider: Any, shape: torch.Size) -> "_Run":
        sampling = guider.model_patcher.get_model_object("model_sampling")
        first, last = (float(sampling.percent_to_sigma(each)) for each in (self.start, self.end))
        return _Run(self, MapReader(named_in(guider.conds), self.decay), first, last, shape)

    def _check(self, guider: Any, noise: Tensor, sampler: Any) -> None:
        """Everything that can be seen before the first UNet call."""
        count = len(self.story.frames)
        if noise.ndim != 4 or len(noise) != count:
            raise ValueError(
                f"AMSA: the LATENT holds {len(noise)} pictures, the story has {count} frames, which must be sampled as "
                "one batch. Connect the frames output of Encode Story to the batch_size of Empty Latent Image."
            )
        named = named_in(guider.conds)
        if not named:
            raise ValueError(
                "AMSA: no prompt says where it names the characters. Encode the prompts with Encode Story, and give "
                "them no area."
            )
        for each in named.values():
            self._check_prompts(each)
        refuse_several_gpus(guider.model_patcher, "AMSA")
        if 0 < self.anchors < count and sampler_name_of(sampler) == "dpm_adaptive":
            raise ValueError(
                'AMSA: the sampler "dpm_adaptive" chooses its steps from the picture, so later frames cannot follow '
                "the anchor frames. Use any other sampler, or set anchors to 0."
            )

    def _warn(self, steps: int) -> None:
        if steps == 1:
            logging.warning("AMSA: the first step is plain, and there is no other, so nothing is shared.")
        frames = self.story.frames
        early = {person for frame in frames[: self.anchors or None] for person in frame.cast}
        late = dict.fromkeys(person.name for frame in frames for person in frame.cast if person not in early)
        if late:
            message = "AMSA: the first %s frames do not show %s, who will be alike only within each group of frames."
            logging.warning(f"{message} Raise anchors, or show them earlier.", self.anchors, quote_all(late))

    def _check_prompts(self, named: Named) -> None:
        frames = self.story.frames
        names = [each.name for each in self.story.characters]
        if len(named.prompts) != len(frames) or named.names != names:
            raise ValueError(
                f"AMSA: the positive prompt is of {len(named.prompts)} frames with {quote_all(named.names, 5)}, the "
                f"story has {len(frames)} frames with {quote_all(names, 5)}. Connect the same STORY to Encode Story "
                "and to AMSA Model Patch."
            )
        for frame, prompt in zip(frames, named.prompts, strict=True):
            if frame.prompt != prompt:
                raise ValueError(
                    f"AMSA: {frame.label} of the positive prompt is {quote(prompt, 200)}, of the story "
                    f"{quote(frame.prompt, 200)}. Connect the same STORY to Encode Story and to AMSA Model Patch."
                )


@contextmanager
def _known_to(guider: Any, run: "_Run", rows: slice) -> Iterator[None]:
    """Keep the run, and which frames it has, in the guider's options, which are this sampling's own, while it lasts.

    Wrappers outside ours that remember calls (EasyCache) begin anew with every group.
    """
    own = guider.model_options
    options = own.get("transformer_options", {})
    fresh = copy.deepcopy({key: options[key] for key in WRAPPER_STATE if key in options})
    own["transformer_options"] = with_participant({**options, ROWS: rows, **fresh}, _KEY, run)
    try:
        yield
    finally:
        own["transformer_options"] = options


@dataclass
class _Run(Participant):
    """One group of frames while it is sampled.

    Args:
        settings: What AMSA does.
        reader: Reads the maps.
        first: The noise level at which sharing begins.
        last: The one at which it ends.
        shape: The shape of the group's latents.
        record: Where the anchor frames leave what they find.
        see: Where later groups find it.
    """

    settings: SharedAttention
    reader: MapReader
    first: float
    last: float
    shape: torch.Size
    record: SubjectBank | None = None
    see: SubjectBank | None = None
    grids: set[tuple[int, int]] = field(default_factory=set)
    subjects: dict[tuple[int, int], SubjectPositions] = field(default_factory=dict)
    warned: bool = False

    def wants(self, options: Options) -> bool:
        """Whether a call is not past the end; before the start it is read."""
        return float(options["sigmas"].max()) >= self.last

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
        if not self.serves(x, transformer_options):
            return executor(x, timesteps, context, y, control, transformer_options, **more)
        self.begin(x.device, transformer_options)
        hooked = with_hooks(transformer_options, self_attention=self.share, cross_attention=self.reader.read)
        result = executor(x, timesteps, context, y, control, hooked, **more)
        self.reader.end()
        return result

    def serves(self, x: Tensor, options: Options) -> bool:
        """Whether a call has all frames, whole; says once per run why not."""
        rows = len(options["uuids"]) * self.shape[0]
        if tuple(x.shape[2:]) != tuple(self.shape[2:]):
            return self._plain(f"a prompt has an area of its own ({x.shape[3]}x{x.shape[2]} latent cells)")
        if len(x) != rows or len(set(options["uuids"])) * self.shape[0] != rows:
            return self._plain(f"the model is called with {len(x)} pictures of {rows} (context windows, areas)")
        return True

    def begin(self, device: torch.device, options: Options) -> None:
        """A call begins. With a new step, masks are made of what was read so far, for every grid that shares."""
        if not self.reader.begin(options):
            return
        self.subjects = {}
        maps, sigma = self.reader.maps, self.reader.sigma
        if maps is None and self.grids and self.reader.names_anybody:
            self._plain("no attention maps could be read, since another patch changes the tokens of the text")
        if maps is None or sigma is None or not self.last <= sigma <= self.first:
            return
        grids = sorted(self.grids, key=lambda grid: -grid[0] * grid[1])
        for grid in grids[LAYERS[self.settings.layers]] or grids:
            labels = maps.labels(grid, self.settings.threshold)
            if labels is not None:
                labels = labels.flatten(1)
                characters = labels if self.settings.same_character else None
                self.subjects[grid] = SubjectPositions.of(labels >= 0, characters, device)

    def share(self, q: Tensor, k: Tensor, v: Tensor, heads: int, layer: Layer, attend: Attend) -> Tensor:
        """The self-attention hook."""
        self.grids.add(layer.grid)
        subjects, uuids = self.subjects.get(layer.grid), self.reader.uuids
        if subjects is None:
            return attend(q, k, v, heads)
        if tuple(q.shape[:2]) != (len(uuids) * self.shape[0], subjects.tokens) or k.shape != q.shape:
            self._plain(f"another patch changes the tokens of block {layer.block} (token merging, tiling)")
            return attend(q, k, v, heads)
        q_rows, k_rows, v_rows = (each.chunk(len(uuids)) for each in (q, k, v))
        shared = []
        for place, uuid in enumerate(uuids):
            found = subjects.gather(k_rows[place], v_rows[place])
            rows = (q_rows[place], k_rows[place], v_rows[place], heads, subjects, found)
            further = self._further(uuid, layer, found)
            shared.append(attend_across_frames(*rows, self.settings.strength, further, attend))
        return torch.cat(shared)

    def _further(self, uuid: UUID, layer: Layer, found: SubjectTokens) -> SubjectTokens | None:
        """Give the bank what a prompt's frames have here, or take from it what the anchor frames had."""
        sigma = self.reader.sigma
        assert sigma is not None
        call = (sigma, self.reader.visits[sigma], self.reader.calls[uuid])
        layer_key = (uuid, layer.block, layer.index)
        if self.record is not None:
            try:
                self.record.put(call, layer_key, found)
            except ValueError as error:
                raise ValueError(f"AMSA cannot keep the anchor frames: {error} Set anchors to 0.") from error
        if self.see is None:
            return None
        if (call, layer_key) not in self.see:
            self._plain("the anchor frames skipped a call of the model that these frames make (EasyCache, LazyCache)")
            return None
        return self.see.get(call, layer_key, found.k.device, found.k.dtype)

    def _plain(self, reason: str) -> bool:
        if not self.warned:
            logging.warning("AMSA: %s; such calls get plain attention.", reason)
        self.warned = True
        return False
