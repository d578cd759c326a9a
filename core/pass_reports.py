"""What the layout and the second pass did, in words, for the nodes to show."""

from collections.abc import Mapping

from .layout import Layout
from .quoting import quote
from .redenoise import ProgressiveMasks


def describe_layout(layout: Layout) -> str:
    """One line per character: how much of the picture is theirs, or that they were not found."""
    if not layout.names:
        return f"{layout.label}: shows nobody."
    shares = layout.masks.float().mean(dim=(1, 2)).tolist()
    rows = [
        f"{quote(name)}: {_percent(share)} of the picture" if share else f"{quote(name)}: not found, stays as drawn"
        for name, share in zip(layout.names, shares, strict=True)
    ]
    return "\n".join([layout.label, *rows])


def describe_redenoising(layout: Layout, masks: ProgressiveMasks, seen: Mapping[str, float] | None = None) -> str:
    """Which steps were re-denoised, and how each character's mask grew.

    Args:
        layout: The frame's layout.
        masks: The schedule made of it.
        seen: The share of the picture that the identity generator saw for each character; None: all of it.
    """
    if not layout.masks.any():
        return f"{layout.label}: shows nobody; the template stays as it is."
    first, last = (masks.at(step).float().mean(dim=(1, 2)).tolist() for step in (masks.start, masks.steps - 1))
    rows = [
        f"{quote(name)}: mask {_percent(before)} of the picture, {_percent(after)} at the last step"
        + (f", drawn on {_percent(seen[name])} of it" if seen else "")
        for name, before, after, found in zip(layout.names, first, last, layout.masks.flatten(1).any(1), strict=True)
        if found
    ]
    return "\n".join([f"{layout.label}: steps {masks.start + 1} to {masks.steps} of {masks.steps} re-denoised", *rows])


def _percent(share: float) -> str:
    return "under 1 %" if share < 0.01 else f"{100 * share:.0f} %"
