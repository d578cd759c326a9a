"""Auto-mask self-attention on the host's UNets (Storynizor, section 3.1, equations 4 to 6; `core.frame_sharing`).

Here is what the host adds: the checks before a sampling, groups of frames for long stories, and which rows of a model
call are which. What a sampling knows lies in its own options, which the host makes for it and throws away; nothing lies
on the MODEL.
"""

import copy
import logging
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...core.attention import SubjectTokens
from ...core.frame_sharing import FrameSharing, Sharing
from ...core.quoting import quote, quote_all
from ...core.story import Story
from ...core.subject_bank import CallBank, SubjectBank
from .character_guider import WRAPPER_STATE
from .frame_calls import FrameCalls, need_own_calls
from .frame_groups import ROWS, Conds, WholeBatch, groups_of, of_group
from .miswiring import SHARED_ATTENTION
from .passes import sampler_name_of
from .story_prompts import Named, named_in
from .token_maps import level_of, new_reader
from .transformer_families import Family, block_count, refuse_unknown
from .transformer_hooks import apply_transformer, mover
from .unet_hooks import (
    Attach,
    HookingParticipant,
    Options,
    refuse_several_gpus,
    warn_if_compiled,
    with_participant,
)


@dataclass(frozen=True)
class SharedAttention:
    """What AMSA does, and the wrappers that do it.

    Args:
        story: Its frames are the batch, in order.
        sharing: How they see each other.
        start: Share from here on, as a share of the noise schedule, 0 to 1.
        end: Share until here.
        anchors: Frames sampled at a time: the first ones together, later ones in groups that also see them. 0: all.
    """

    story: Story
    sharing: Sharing = Sharing()
    start: float = 0.0
    end: float = 1.0
    anchors: int = 0

    def __post_init__(self) -> None:
        if not self.start < self.end:
            raise ValueError(f"AMSA: it starts at {self.start} and ends at {self.end}; the end must be greater.")

    def added_to(self, model: Any) -> Any:
        """A clone of the MODEL with the wrappers; a plain clone of a UNet at strength 0.

        Raises:
            ValueError: If the MODEL's attention cannot be hooked, a setting is not for it, or it has the patch already.
        """
        family = refuse_unknown(model, "AMSA")
        self._check_settings(model, family)
        if model.get_wrappers(WrappersMP.OUTER_SAMPLE, SHARED_ATTENTION):
            raise ValueError("This MODEL has the AMSA patch already; remove one of the two AMSA Model Patch nodes.")
        patched = model.clone()
        if self.sharing.strength > 0 or family:  # a transformer's frames may need a call each all the same
            patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, SHARED_ATTENTION, self.sample)
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
        family = refuse_unknown(guider.model_patcher, "AMSA")
        self._check(guider, noise, sampler, family)
        self._warn(len(sigmas) - 1, family)
        warn_if_compiled(guider.model_patcher, "AMSA", "the steps until end_percent")
        if family and (need_own_calls(guider.conds) or 0 < self.anchors < len(noise)):
            with self._frame_calls(guider, noise, family).in_force():
                return executor(
                    noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed, **more
                )
        frames, conds, bank, results = len(noise), guider.conds, _AnchorBank(), []
        groups = groups_of(frames, 0 if family else self.anchors)
        shown = WholeBatch(callback, groups, noise) if callback is not None and len(groups) > 1 else None
        for number, rows in enumerate(groups):
            guider.conds = of_group(conds, rows, frames, noise.shape[2:]) if len(groups) > 1 else conds
            record, see = (bank, None) if number == 0 else (None, bank)
            run = self._run(guider, guider.conds, noise[rows].shape, family)
            if len(groups) > 1:
                run.sharing.record, run.sharing.see = record, see
            if "latent_shapes" in more:
                more["latent_shapes"] = [latent_image[rows].shape]
            with _known_to(guider, run, rows, apply_transformer if family else None):
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

    def _run(self, guider: Any, conds: Conds, shape: torch.Size, family: Family | None) -> "_Run":
        model = guider.model_patcher
        sampling = model.get_model_object("model_sampling")
        first, last = (float(sampling.percent_to_sigma(each)) for each in (self.start, self.end))
        reader = new_reader(named_in(conds), shape[0], self.sharing.decay, family)
        options = guider.model_options.get("transformer_options", {})
        move = mover(model, family, options) if family and self.sharing.matched else None
        return _Run(FrameSharing(self.sharing, reader, (first, last), _log_plain, move=move), shape)

    def _frame_calls(self, guider: Any, noise: Tensor, family: Family) -> FrameCalls:
        """Every frame by itself, with the people of the anchor frames before it."""
        frames, anchors = len(noise), self.anchors or len(noise)
        bank, runs = CallBank(), []
        for frame in range(frames):
            conds = of_group(guider.conds, slice(frame, frame + 1), frames, noise.shape[2:])
            run = self._run(guider, conds, noise[:1].shape, family)
            run.sharing.record, run.sharing.see = bank if frame < anchors else None, bank if frame else None
            runs.append(run)
        if not self.sharing.strength:
            runs = [None] * frames
        return FrameCalls(guider, runs, SHARED_ATTENTION, apply_transformer, bank.clear, 1 + min(anchors, frames - 1))

    def _check_settings(self, model: Any, family: Family | None) -> None:
        blocks = self.sharing.blocks
        if family is None and (blocks is not None or self.sharing.matched):
            raise ValueError(
                "AMSA: blocks and positions are for diffusion transformers; for a UNet such as this, choose layers and "
                'leave blocks at "all" and positions at "own".'
            )
        if family is None:
            return
        if self.sharing.matched and family.rotary is None:
            raise ValueError(
                f'AMSA: positions is "matched", but keys of a model such as this ({family.name}) cannot be moved by '
                'rotary positions. Choose "own".'
            )
        count = block_count(model, family)
        last = -1 if blocks is None else max(each.stop for each in blocks) - 1
        if last >= count:
            raise ValueError(
                f"AMSA: blocks names block {last}, but this MODEL ({family.name}) has blocks 0 to {count - 1}."
            )

    def _check(self, guider: Any, noise: Tensor, sampler: Any, family: Family | None) -> None:
        """Everything that can be seen before the model's first call."""
        count = len(self.story.frames)
        of_pictures = noise.ndim == 4 or (family is not None and noise.ndim == 5 and noise.shape[2] == 1)
        if not of_pictures or len(noise) != count:
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
        if family is None and 0 < self.anchors < count and sampler_name_of(sampler) == "dpm_adaptive":
            raise ValueError(
                'AMSA: the sampler "dpm_adaptive" chooses its steps from the picture, so later frames cannot follow '
                "the anchor frames. Use any other sampler, or set anchors to 0."
            )

    def _warn(self, steps: int, family: Family | None) -> None:
        if steps == 1:
            logging.warning("AMSA: the first step is plain, and there is no other, so nothing is shared.")
        frames = self.story.frames
        early = {person for frame in frames[: self.anchors or None] for person in frame.cast}
        late = dict.fromkeys(person.name for frame in frames for person in frame.cast if person not in early)
        if late and self.sharing.strength:
            message = "AMSA: the first %s frames do not show %s, who will be alike only within each group of frames."
            if family:
                message = "AMSA: the first %s frames do not show %s, whom no other frame will see."
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
def _known_to(guider: Any, run: "_Run", rows: slice, around: Callable[..., Tensor] | None = None) -> Iterator[None]:
    """Keep the run, and which frames it has, in the guider's options, which are this sampling's own, while it lasts.

    Wrappers outside ours that remember calls (EasyCache) begin anew with every group.
    """
    own = guider.model_options
    options = own.get("transformer_options", {})
    fresh = copy.deepcopy({key: options[key] for key in WRAPPER_STATE if key in options})
    own["transformer_options"] = with_participant({**options, ROWS: rows, **fresh}, SHARED_ATTENTION, run, around)
    try:
        yield
    finally:
        own["transformer_options"] = options


class _AnchorBank(SubjectBank):
    """The bank of the anchor frames; what it cannot hold is an error that says what to do."""

    def put(self, step: Hashable, layer: Hashable, tokens: SubjectTokens) -> None:
        try:
            super().put(step, layer, tokens)
        except ValueError as error:
            raise ValueError(f"AMSA cannot keep the anchor frames: {error} Set anchors to 0.") from error


@dataclass(frozen=True)
class _Run(HookingParticipant):
    """One group of frames while it is sampled.

    Args:
        sharing: How its frames see each other.
        shape: The shape of the group's latents.
    """

    sharing: FrameSharing
    shape: torch.Size

    def wants(self, options: Options) -> bool:
        """Whether a call is not past the end; before the start it is read."""
        return level_of(options) >= self.sharing.levels[1]

    def hook_call(self, x: Tensor, options: Options, attach: Attach, call: Callable[[Options], Tensor]) -> Tensor:
        """Let the frames of the call see each other."""
        sharing = self.sharing
        if not self._has_all_frames(x, options):
            return call(options)
        sharing.begin_call(options["uuids"], level_of(options), x.device)
        result = call(attach(options, self_attention=sharing.share, reader=sharing.reader))
        sharing.end_call()
        return result

    def report(self, reason: str) -> None:
        """Say why a call could not be hooked."""
        self.sharing.report(reason)

    def _has_all_frames(self, x: Tensor, options: Options) -> bool:
        """Whether a call has all frames, whole; reports why not."""
        rows = len(options["uuids"]) * self.shape[0]
        if tuple(x.shape[2:]) != tuple(self.shape[2:]):
            self.sharing.report(f"a prompt has an area of its own ({x.shape[-1]}x{x.shape[-2]} latent cells)")
        elif len(x) != rows or len(set(options["uuids"])) * self.shape[0] != rows:
            self.sharing.report(f"the model is called with {len(x)} pictures of {rows} (context windows, areas)")
        else:
            return True
        return False


def _log_plain(reason: str) -> None:
    logging.warning("AMSA: %s; such calls get plain attention.", reason)
