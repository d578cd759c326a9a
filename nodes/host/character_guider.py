"""Guiders that predict characters, each as if they were sampled alone, with one MODEL or with several.

Everything is prepared by the host's own sampling: a MODEL's wrappers, hooks, patches, ControlNets and injections act on
its characters as they do under the stock KSampler, and on nobody else.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.conds
import comfy.model_management
import comfy.samplers
import torch
from torch import Tensor

from ...core.region import Region
from ..types import Cast
from .regions import RegionalPrompts

PostCfgHook = Callable[[dict[str, Any]], Tensor]
_HOOKS = "sampler_post_cfg_function"
_BOTH_PROMPTS = "sampler_calc_cond_batch_function"
_READS_UNCONDITIONAL = "disable_cfg1_optimization"
WRAPPER_STATE = ("easycache",)
"""Transformer options in which core wrappers (EasyCache, LazyCache) remember the last call; not to be shared."""
_OF_NO_ACCOUNT = {"uuid"}
"""Keys of a prepared conditioning that differ between equal ones."""
_REFERENCE_MEMORY = "KV_Attn_Input"
"""The class of core's patch (Flux KV Cache) that remembers the reference pictures of the first call."""


def sampler_hooks(model_options: dict[str, Any], own: dict[str, Any]) -> list[PostCfgHook]:
    """The post-CFG hooks that the sampler added to the model's own: CFG++ samplers read the unconditional there.

    The host appends, so what stands after the model's own is the sampler's.
    """
    return model_options.get(_HOOKS, [])[len(own.get(_HOOKS, [])) :]


def without_last_hooks(model_options: dict[str, Any], count: int) -> dict[str, Any]:
    """The options without the sampler's `count` hooks."""
    return {**model_options, _HOOKS: model_options[_HOOKS][:-count]} if count else model_options


class UnconditionalTap:
    """A post-CFG hook that remembers the unconditional prediction of the call."""

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def __call__(self, args: dict[str, Any]) -> Tensor:
        self.value = args["uncond_denoised"]
        return args["denoised"]

    def added_to(self, model_options: dict[str, Any]) -> dict[str, Any]:
        return {**model_options, _HOOKS: [*model_options.get(_HOOKS, []), self]}


class Character:
    """What one character keeps between calls: prepared prompts, the last unconditional, what patches remember."""

    def __init__(self, conds: dict[str, Any], prompts: RegionalPrompts) -> None:
        self.conds = conds
        self.prompts = prompts
        self.tap = UnconditionalTap()
        self._state: dict[str, Any] | None = None
        self._references: dict[int, Any] = {}

    @classmethod
    def prepared(
        cls,
        region: Region,
        pair: dict[str, Any],
        network: Any,
        noise: Tensor,
        device: torch.device,
        latent: Tensor,
        mask: Tensor | None,
        seed: int | None,
        latent_shapes: Any,
    ) -> "Character":
        """Prepare the prompts as the host does, for a picture that is the region of the given noise and latent."""
        prompts, shown = RegionalPrompts(region, network), region.crop(noise)
        cut = {kind: prompts.cut(entries) for kind, entries in pair.items()}
        latent, mask = region.crop(latent), None if mask is None else region.crop(mask)
        shapes = latent_shapes if latent_shapes is None or region.is_everything else [shown.shape]
        conds = comfy.samplers.process_conds(network, shown, cut, device, latent, mask, seed, latent_shapes=shapes)
        return cls(conds, prompts)

    def options(self, model_options: dict[str, Any], with_tap: bool) -> dict[str, Any]:
        """The call's options with this character's own wrapper state and, if asked for, the tap."""
        transformer = model_options.get("transformer_options", {})
        if self._state is None:
            self._state = {key: copy.deepcopy(transformer[key]) for key in WRAPPER_STATE if key in transformer}
        if self._state:
            model_options = {**model_options, "transformer_options": {**transformer, **self._state}}
        return self.tap.added_to(model_options) if with_tap else model_options

    @contextmanager
    def own_references(self, model_options: dict[str, Any]) -> Iterator[None]:
        """Meanwhile the patches that remember reference pictures remember this character's."""
        patches = model_options.get("transformer_options", {}).get("patches", {}).get("attn1_patch", [])
        memories = [patch for patch in patches if type(patch).__name__ == _REFERENCE_MEMORY]
        before = [patch.cache for patch in memories]
        for number, patch in enumerate(memories):
            patch.cache = self._references.get(number, {})
        try:
            yield
        finally:
            self._references = {number: patch.cache for number, patch in enumerate(memories)}
            for patch, kept in zip(memories, before, strict=True):
                patch.cache = kept


class Unconditionals:
    """The unconditional predictions of one call of the sampler, that several characters share.

    Args:
        given: The one for everybody, such as the template's; None where each group of characters has its own.
    """

    def __init__(self, given: Tensor | None = None) -> None:
        self._given = given
        self._known: dict[int, Tensor] = {}

    def added_to(self, model_options: dict[str, Any], group: int, region: Region) -> dict[str, Any]:
        """The options with which a character of a group takes the unconditional from here, or leaves it here.

        The given one is of the whole picture, of which the character sees the region. It is a hook in place of the
        evaluation of both prompts; one that is there already is called by it.
        """
        before = model_options.get(_BOTH_PROMPTS)

        def evaluate(args: dict[str, Any]) -> list[Tensor]:
            if before is not None:
                return before(args)
            inputs = (args[name] for name in ("model", "conds", "input", "sigma", "model_options"))
            return comfy.samplers.calc_cond_batch(*inputs)

        def with_shared(args: dict[str, Any]) -> list[Tensor]:
            conditional, negative = args["conds"]
            if negative is None:
                return evaluate(args)
            unconditional = self._known.get(group) if self._given is None else region.crop(self._given)
            if unconditional is not None:
                return [evaluate({**args, "conds": [conditional, None]})[0], unconditional]
            both = evaluate(args)
            self._known[group] = both[1]
            return both

        return {**model_options, _BOTH_PROMPTS: with_shared}


class CharacterGuider(comfy.samplers.CFGGuider):
    """Predicts characters with one MODEL; while it samples, `predict` answers for each of its members.

    Args:
        model_patcher: The MODEL.
        members: The characters that it draws; may be empty. A member without negative prompt needs a scale of 1.
        regions: The part of the picture that the MODEL sees for each of them.
    """

    def __init__(self, model_patcher: Any, members: Cast, regions: Sequence[Region]) -> None:
        super().__init__(model_patcher)
        self.members = members
        self.regions = regions
        conds = {}
        for index, member in enumerate(members):
            conds[f"positive {index}"] = member.positive
            if member.negative:
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
        pairs = [
            {kind: all_conds[f"{kind} {i}"] for kind in ("positive", "negative") if f"{kind} {i}" in all_conds}
            for i in range(len(self.members))
        ]
        self.characters = [
            Character.prepared(region, pair, self.inner_model, noise, device, scaled, denoise_mask, seed, latent_shapes)
            for region, pair in zip(self.regions, pairs, strict=True)
        ]
        negatives = [character.conds.get("negative") for character in self.characters]
        self.groups = [_first_equal(negatives, index) for index in range(len(negatives))]
        self.conds = {}
        try:
            return super().inner_sample(
                noise, latent_image, device, sampler, sigmas, denoise_mask, callback, disable_pbar, seed, latent_shapes
            )
        finally:
            self.conds = all_conds
            for character in self.characters:
                character.prompts.clean_up()
            del self.characters, self.groups

    def predict(
        self,
        index: int,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any],
        with_tap: bool,
        seed: int | None,
        unconditionals: Unconditionals | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """One member's guided prediction and, with `with_tap`, the last unconditional that the model gave for them.

        Both are of the member's region of `x`. With `unconditionals` the latter is shared with the members whose
        negative conditioning is equal.
        """
        character, region = self.characters[index], self.regions[index]
        options = character.options(model_options, with_tap)
        if unconditionals is not None:
            options = unconditionals.added_to(options, self.groups[index], region)
        self.conds = character.conds
        with character.own_references(options):
            prediction = comfy.samplers.CFGGuider.outer_predict_noise(self, region.crop(x), timestep, options, seed)
        self.conds = {}
        return prediction, character.tap.value

    def make_current(self, x: Tensor) -> None:
        """Bring this MODEL's weights back: another may have taken their room, or have a LoRA on a network of both."""
        rows = [2 * x.shape[0], *x.shape[1:]]
        comfy.model_management.load_models_gpu(
            [self.model_patcher, *self.loaded_models], memory_required=self.inner_model.memory_required(rows)
        )
        self.inner_model.current_patcher = self.model_patcher


class OwnModelGuider(CharacterGuider):
    """Predicts the characters that bring a MODEL of their own, next to the guider that samples."""

    def while_ready(
        self, run: Callable[[], Tensor], noise: Tensor, latent: Tensor, sigmas: Tensor, **more: Any
    ) -> Tensor:
        """Prepare all as for a sampling with this MODEL, run something, and clean up; gives what `run` gives."""
        sampler = _Ready(run)
        self.sample(noise, latent, sampler, sigmas, disable_pbar=True, **more)
        return sampler.result

    def predict(
        self,
        index: int,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any],
        with_tap: bool,
        seed: int | None,
        unconditionals: Unconditionals | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """As above, with this MODEL's own options; of the sampler's only whether it reads the unconditional."""
        options = self.options
        if model_options.get(_READS_UNCONDITIONAL, False):
            options = {**options, _READS_UNCONDITIONAL: True}
        return super().predict(index, x, timestep, options, with_tap, seed, unconditionals)


class _Ready(comfy.samplers.Sampler):
    """A sampler that runs something in place of sampling, once its guider is prepared."""

    def __init__(self, run: Callable[[], Tensor]) -> None:
        self._run = run

    def sample(
        self,
        model_wrap: OwnModelGuider,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        *_: Any,
    ) -> Tensor:
        model_wrap.options = extra_args["model_options"]
        self.result = self._run()
        return noise


def _first_equal(values: list[Any], index: int) -> int:
    """The position of the first of some values that equals the one at `index`."""
    return next(place for place, value in enumerate(values) if _equal(value, values[index]))


def _equal(one: Any, other: Any) -> bool:
    """Whether two prepared conditionings evaluate alike: the same numbers, and the very same ControlNets and hooks."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        keys = one.keys() - _OF_NO_ACCOUNT
        return keys == other.keys() - _OF_NO_ACCOUNT and all(_equal(one[key], other[key]) for key in keys)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, comfy.conds.CONDRegular):
        return _equal(vars(one), vars(other))
    return isinstance(one, (int, float, str)) and one == other
