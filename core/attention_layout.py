"""A character layout (IdentityStory, equation 5) from the model's own cross-attention (Storynizor, equations 5, 6)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .automask import character_labels, subject_masks
from .layout import Layout, exclusive_masks
from .quoting import quote, quote_all
from .shapes import Float


def attention_layout(
    maps: Mapping[str, Float[Tensor, "_ _"]],
    names: Sequence[str],
    size: tuple[int, int],
    label: str,
    *,
    method: str | float | int,
    dilate_px: int,
    skip_missing: bool,
) -> Layout:
    """Make a layout of token maps.

    The maps are brought to the picture's size (bilinear) before they are cut, so that edges are not those of the
    attention grid. Where two characters' masks meet, the higher normalised map wins. Then as with a detector: the
    largest piece of each, grown, made exclusive.

    Args:
        maps: Each character's map, on any grid of the picture's shape, any scale.
        names: Whom the layout shows, in that order.
        size: Height and width of the picture.
        label: What messages call the frame.
        method: How `subject_masks` cuts: "otsu" or a threshold between 0 and 1.
        dilate_px: Half-width of the square by which masks grow, in pixels.
        skip_missing: Give a character whom the maps do not show an empty mask, which leaves them as they were drawn.

    Raises:
        ValueError: If the maps are of other characters, or a character's mask is empty and `skip_missing` is off.
    """
    if set(maps) != set(names):
        raise ValueError(
            f"{label}: the attention maps are of {quote_all(maps, 5) or 'nobody'}, the frame shows "
            f"{quote_all(names, 5) or 'nobody'}. Connect the same STORY_FRAME to Encode Frame and here."
        )
    if not names:
        return Layout((), torch.zeros(0, *size, dtype=torch.bool), label)
    own = [maps[name].float()[None, None] for name in names]
    resized = torch.cat([torch.nn.functional.interpolate(each, size, mode="bilinear") for each in own], dim=1)
    labels = character_labels(resized, subject_masks(resized[0], method)[None])[0]
    masks = exclusive_masks(torch.stack([labels == number for number in range(len(names))]), dilate_px)
    for name, mask in zip(names, masks, strict=True):
        if not mask.any() and not skip_missing:
            raise ValueError(
                f"{label}: the attention maps do not show {quote(name)}, or another character covers them. Look at "
                "Preview Attention Masks, change the threshold or the seed, use a detector (Grounded-SAM Layout), or "
                "set on_missing to skip."
            )
    return Layout(tuple(names), masks, label)
