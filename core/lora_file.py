"""What a LoRA holds: two matrices for each layer that it changes, and whether they fit a network."""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from .quoting import quote_all
from .state_dict import WeightFileError, refuse_gaps

_NAME = re.compile(r"([a-z_0-9]+)\.(.+?)(?:_lora\.|\.lora\.|\.lora_linear_layer\.|\.lora_)(down|up|A|B)\.weight")
_HALVES = {"A": "down", "B": "up"}


def lora_pairs(lora: Mapping[str, Tensor], name: str, part: str = "unet") -> dict[str, tuple[Tensor, Tensor]]:
    """Both matrices of a LoRA, down and up, by the layer that they change.

    Args:
        lora: Under diffusers' names of layers, with the endings that diffusers or peft have given them over time.
        name: What messages call the file.
        part: What the names begin with.

    Raises:
        ValueError: If a name is of another kind, one of two matrices is missing, or they do not go together.
    """
    halves: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for key, tensor in lora.items():
        match = _NAME.fullmatch(key)
        if match and match[1] == part:
            layer = re.sub(r"\.to_out$", ".to_out.0", match[2].replace(".processor.", "."))
            halves.setdefault(layer, {})[_HALVES.get(match[3], match[3])] = tensor
        else:
            unknown.append(key)
    missing = [f"{layer} ({half})" for layer, both in halves.items() for half in ("down", "up") if half not in both]
    wrong = [
        f"{layer} has matrices of {tuple(both['down'].shape)} and {tuple(both['up'].shape)}"
        for layer, both in halves.items()
        if len(both) == 2 and not _go_together(**both)
    ]
    refuse_gaps(missing, unknown, wrong, name, "a LoRA of two matrices for each layer")
    return {layer: (both["down"], both["up"]) for layer, both in halves.items()}


def check_lora(
    lora: Mapping[str, Tensor],
    layers: Mapping[str, Sequence[int] | None],
    name: str,
    model: str = "this checkpoint",
    throughout: bool = True,
) -> None:
    """Refuse a LoRA that does not fit a UNet.

    Args:
        lora: As `lora_pairs` takes it.
        layers: The shape of the weight of every layer of the UNet, in diffusers' names; None if it is not known.
        name: What messages call the file.
        model: What messages call the UNet.
        throughout: Whether a LoRA that changes a kind of layer, such as the queries of cross-attention, must change it
            in every block, as PhotoMaker's does.

    Raises:
        ValueError: If layers are missing, unknown, or of another shape; the message names them.
    """
    pairs = lora_pairs(lora, name)
    if not pairs.keys() & layers.keys():
        found = quote_all(sorted(pairs), 3) or "nothing"
        raise WeightFileError(f"The LoRA in {name} fits none of the layers of {model}: it has {found}.")
    kinds = {_kind(layer) for layer in pairs} if throughout else set()
    missing = [layer for layer in layers if _kind(layer) in kinds and layer not in pairs]
    wrong = [
        f"{layer} has matrices of {tuple(down.shape)} and {tuple(up.shape)} for weights of {tuple(shape)}"
        for layer, (down, up) in sorted(pairs.items())
        if (shape := layers.get(layer)) is not None and not _fits(down, up, shape)
    ]
    refuse_gaps(missing, pairs.keys() - layers.keys(), wrong, f"The LoRA in {name}", model)


def _kind(layer: str) -> str:
    """What a layer is within its block: attn1.to_q. One outside of transformer blocks is of a kind of its own."""
    return re.sub(r"^.*\.transformer_blocks\.\d+\.", "", layer)


def _fits(down: Tensor, up: Tensor, shape: Sequence[int]) -> bool:
    """Whether the product of both has a weight's shape; linear layers may be written as convolutions of 1 x 1."""
    sides = [[side for side in each if side != 1] for each in (up.shape[2:], down.shape[2:], shape[2:])]
    return (up.shape[0], down.shape[1]) == tuple(shape[:2]) and not sides[0] and sides[1] == sides[2]


def _go_together(down: Tensor, up: Tensor) -> bool:
    fractions = down.is_floating_point() and up.is_floating_point()
    return fractions and down.ndim == up.ndim and down.ndim in (2, 4) and down.shape[0] == up.shape[1] > 0
