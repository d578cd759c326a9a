"""The ID injector under diffusers (Storynizor, section 3.2, equations 9 to 13)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.adapter_file import read_adapter
from ..core.attention import Attend
from ..core.attention_hooks import Hook, Layer
from ..core.face_injection import FaceInjection, InjectedCharacter
from ..core.injector import Injector, ReferenceFeatures
from ..core.layout import Layout
from ..core.quoting import quote
from ..core.reference_assignment import assign_references
from ..core.story import Frame, Story
from .unet_attention import layer_names


def cross_attention_hook(injection: FaceInjection, frames: int) -> Hook:
    """The hook of a UNet that is called with n rows per prompt: the conditional one last, as `Denoiser` has them."""

    def hook(q: Tensor, k: Tensor, v: Tensor, heads: int, layer: Layer, attend: Attend) -> Tensor:
        unconditional = [True] * (len(q) // frames - 1) + [False]
        return injection.inject(unconditional, range(frames), q, k, v, heads, layer, attend)

    return hook


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
    *,
    frames: Sequence[Frame] | None = None,
    picture_weight: float | int = 1.0,
) -> Hook:
    """The cross-attention hook with which frames of a story are drawn as one batch (the node Shuffled ID Injector).

    Args:
        injector: On the pipeline's device.
        story: Says who is in which frame.
        faces: What was seen in each character's reference pictures.
        mode: As in `shuffle.deal_references`.
        seed: The seed of the shuffling.
        weight: 0 to leave the prompt's attention as it is, 1 as trained.
        layouts: Where each face may appear, one layout per frame of the batch; or none.
        frames: Those of the batch; all of the story, if none are given.
        picture_weight: For FaceID-Plus v2, see `Injector.identity_tokens`.

    Raises:
        ValueError: If a name is not in the story, features are missing or of another width, or there are not as many
            layouts as frames.
    """
    frames = story.frames if frames is None else frames
    if layouts and len(layouts) != len(frames):
        raise ValueError(f"There are {len(layouts)} layouts for {len(frames)} frames; give one for each frame.")
    weights = next(injector.parameters())
    seen = [(name, _moved(features, weights)) for name, features in faces.items()]
    label = f"the {injector.config.kind} adapter"
    assigned = assign_references(injector, seen, story, mode, seed, label, picture_weight)
    characters = [InjectedCharacter.of(each, frames, layouts) for each in assigned if each.by_frame]
    return cross_attention_hook(FaceInjection(injector, characters, mode, weight), len(frames))


def _moved(features: ReferenceFeatures, weights: Tensor) -> ReferenceFeatures:
    return ReferenceFeatures(
        **{name: None if tensor is None else tensor.to(weights) for name, tensor in vars(features).items()}
    )
