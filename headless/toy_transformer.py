"""The toy world's diffusion transformer under diffusers: how it is built, and one call of it."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor
from torch.nn import functional as F

from ..core.shapes import Float
from ..core.toyworld.transformer import TRANSFORMER, TransformerSizes


def new_transformer(sizes: TransformerSizes = TRANSFORMER) -> FluxTransformer2DModel:
    """A network of these sizes with random weights; it always gives as many channels as it takes."""
    return FluxTransformer2DModel(
        patch_size=1,  # diffusers counts patches as it gets them, packed
        in_channels=sizes.cell,
        num_layers=sizes.double_blocks,
        num_single_layers=sizes.single_blocks,
        attention_head_dim=sum(sizes.axes),
        num_attention_heads=sizes.heads,
        joint_attention_dim=sizes.context,
        pooled_projection_dim=sizes.pooled,
        guidance_embeds=False,
        axes_dims_rope=sizes.axes,
    )


def predict_velocity(
    transformer: Any,
    latents: Float[Tensor, "b c h w"],
    times: Float[Tensor, " b"],
    text: Float[Tensor, "b t d"],
    pooled: Float[Tensor, "b e"],
    references: Sequence[Float[Tensor, "b c _ _"]] = (),
) -> Float[Tensor, "b c h w"]:
    """What the network says of noisy latents: noise minus picture, for `latents = (1 - time) picture + time noise`.

    Args:
        transformer: A FluxTransformer2DModel.
        latents: In the model's scale; their sides, and those of references, are even.
        times: From 0, the picture, to 1, the noise.
        text: The text encoder's states.
        pooled: Its summary.
        references: Pictures without noise, in the model's scale.
    """
    patch = TRANSFORMER.patch
    tokens = [_packed(each) for each in (latents, *references)]
    places = [_places(0, (0, 0), latents.shape)]
    places += [_places(1, corner, each.shape) for corner, each in zip(_corners(references), references, strict=True)]
    found = transformer(
        hidden_states=torch.cat(tokens, dim=1),
        encoder_hidden_states=text,
        pooled_projections=pooled,
        timestep=times,
        img_ids=torch.cat(places).to(latents.device),
        txt_ids=torch.zeros(text.shape[1], 3, device=latents.device),
        return_dict=False,
    )[0][:, : tokens[0].shape[1]]
    height, width = (side // patch for side in latents.shape[-2:])
    return F.pixel_shuffle(found.transpose(1, 2).unflatten(2, (height, width)), patch)


def _packed(latents: Tensor) -> Tensor:
    """A token for every patch, `(b, tokens, 4 c)`."""
    return F.pixel_unshuffle(latents, TRANSFORMER.patch).flatten(2).transpose(1, 2)


def _places(index: int, corner: tuple[int, int], shape: torch.Size) -> Float[Tensor, "tokens 3"]:
    """Where every token of a picture is: which picture, down, right."""
    sides = [
        torch.arange(side // TRANSFORMER.patch) + start // TRANSFORMER.patch
        for side, start in zip(shape[-2:], corner, strict=True)
    ]
    return torch.cartesian_prod(torch.tensor([index]), *sides).float()


def _corners(references: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Where each reference begins, in latent cells, on one plane behind the picture.

    ComfyUI's method `offset`: a picture goes below those before it, or to their right where that makes the whole less
    long.
    """
    corners, height, width = [], 0, 0
    for each in references:
        high, wide = each.shape[-2:]
        corner = (0, width) if high + height > wide + width else (height, 0)
        corners.append(corner)
        height, width = max(height, corner[0] + high), max(width, corner[1] + wide)
    return corners
