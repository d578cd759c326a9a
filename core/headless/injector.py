"""The ID injector under diffusers: identity tokens beside the prompt in every cross-attention layer.

Storynizor, section 3.2, equations 9 to 13. Sampling and training ask the same hook.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..adapter_file import read_adapter
from ..attention import plain_attention
from ..dealing import deal_people
from ..injector import Injector, ReferenceFeatures, decoupled_attention
from ..layout import Layout
from ..quoting import quote
from ..shuffle import deal_tokens
from ..story import Story
from .attention import Layer, layer_names


@dataclass(frozen=True)
class InjectedPerson:
    """One character in the rows of a batch.

    Args:
        tokens: Identity tokens, a row per conditional row.
        masks: Where the face acts, in [0, 1], one per conditional row, of any sizes; None: everywhere.
        blank: Tokens of no reference, for the unconditional rows before them; None where there are none.
    """

    tokens: Float[Tensor, "n k c"]
    masks: Sequence[Float[Tensor, "_ _"]] | None = None
    blank: Float[Tensor, "1 k c"] | None = None


@dataclass(frozen=True)
class Injection:
    """What the injector adds to one sampling, or to one call in training; `inject` is a cross-attention hook.

    Args:
        injector: The adapter.
        people: Everybody whose face is known.
        weight: 1 is as trained, 0 leaves the prompt's attention as it is.
    """

    injector: Injector
    people: Sequence[InjectedPerson]
    weight: float | int = 1.0
    _masks: dict[tuple[int, int], list[Tensor | None]] = field(default_factory=dict, init=False)

    def inject(self, q: Tensor, k: Tensor, v: Tensor, heads: int, layer: Layer) -> Tensor:
        """The cross-attention hook (equation 13): unconditional rows first, as many as come before the others."""
        text = plain_attention(q, k, v, heads)
        if layer.grid not in self._masks:
            self._masks[layer.grid] = [_pooled(person.masks, layer.grid) for person in self.people]
        project, people = self.injector.layer(layer.number), []
        for person, mask in zip(self.people, self._masks[layer.grid], strict=True):
            before, tokens = len(q) - len(person.tokens), person.tokens
            if before:
                assert person.blank is not None
                tokens = torch.cat([person.blank.expand(before, -1, -1), tokens])
            id_k, id_v = project(tokens.to(q.device, project.to_k_ip.weight.dtype))
            if mask is not None:
                mask = mask.to(q).repeat(len(q) // len(mask), 1)
            people.append((id_k.to(q.dtype), id_v.to(q.dtype), mask))
        return decoupled_attention(text, q, people, heads, self.weight)


def load_injector(path: Path, pipe: Any) -> Injector:
    """The adapter in a file, on a pipeline's device and in its UNet's dtype.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is none, is made for another kind of model, or is FaceID's with a LoRA in it.
    """
    adapter = read_adapter(path)
    adapter.check(cross_attention_widths(pipe.unet), pipe.unet.config.cross_attention_dim)
    if adapter.lora:
        raise ValueError(
            f"{quote(adapter.name)} has a LoRA for the checkpoint in it, which is applied in ComfyUI only. Use a "
            "plus-face file, or one that train-injector wrote."
        )
    return adapter.injector().to(pipe.unet.device, pipe.unet.dtype).requires_grad_(False)


def cross_attention_widths(unet: Any) -> dict[str, int]:
    """A UNet's cross-attention layers, in the order of adapter files, and their widths."""
    return {name: unet.get_submodule(name).to_q.out_features for name in layer_names(unet)[1::2]}


@torch.no_grad()
def inject_story(
    injector: Injector,
    story: Story,
    faces: Mapping[str, ReferenceFeatures],
    mode: str = "shuffled",
    seed: int = 0,
    weight: float | int = 1.0,
    layouts: Sequence[Layout] = (),
) -> Injection:
    """What the injector adds while all frames of a story are drawn as one batch, as the node Shuffled ID Injector does.

    Args:
        injector: On the pipeline's device.
        story: Says who is in which frame.
        faces: What was seen in each character's reference pictures.
        mode: As in `shuffle.deal_references`.
        seed: Of the shuffling.
        weight: 0 to leave the prompt's attention as it is, 1 as trained.
        layouts: Where each face may appear, one layout per frame; or none.

    Raises:
        ValueError: If a name is not in the story, features are missing or of another width, or there are not as many
            layouts as frames.
    """
    if layouts and len(layouts) != len(story.frames):
        raise ValueError(f"There are {len(layouts)} layouts for {len(story.frames)} frames; give one for each frame.")
    weights = next(injector.parameters())
    seen = [(name, _moved(features, weights)) for name, features in faces.items()]
    people = []
    for person in deal_people(injector, seen, story, mode, seed, f"the {injector.config.kind} adapter"):
        if person.dealt:
            dealt = [person.references(frame) for frame in story.frames]
            masks = [
                person.mask(frame, layouts[number] if layouts else None) for number, frame in enumerate(story.frames)
            ]
            tokens = deal_tokens(person.tokens, dealt, mode)
            blank = person.blank.repeat(1, tokens.shape[1] // person.blank.shape[1], 1)  # repeated keys change nothing
            people.append(InjectedPerson(tokens.to(weights), masks, blank.to(weights)))
    return Injection(injector, people, weight)


def _pooled(masks: Sequence[Tensor] | None, grid: tuple[int, int]) -> Float[Tensor, "n l"] | None:
    if masks is None:
        return None
    return torch.stack([torch.nn.functional.adaptive_avg_pool2d(mask.unsqueeze(0), grid).flatten() for mask in masks])


def _moved(features: ReferenceFeatures, weights: Tensor) -> ReferenceFeatures:
    return ReferenceFeatures(
        **{name: None if tensor is None else tensor.to(weights) for name, tensor in vars(features).items()}
    )
