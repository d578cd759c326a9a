"""From diffusers' names of a UNet's weights to those of the original latent-diffusion code (LDM).

Single-file checkpoints use the LDM names, and both hosts read them with their own loaders. The LDM UNet is one list of
blocks down and one list of blocks up, where diffusers nests layers in levels.
"""

import re
from collections.abc import Mapping

from torch import Tensor

_UNET_STEMS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def unet_to_ldm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A UNet2DConditionModel's weights under LDM names, without a prefix.

    For any number of levels, with and without attention, of text-conditioned UNets without further conditioning (SD1.5
    and 2, and the toy world; not SDXL).

    Raises:
        ValueError: If a weight has no place in the LDM layout.
    """
    layers = _count(state, r"down_blocks\.0\.resnets\.(\d+)\.")
    with_attention = {key.split(".")[1] for key in state if key.startswith("up_blocks.") and ".attentions." in key}
    return {_unet_name(key, layers, with_attention): tensor for key, tensor in state.items()}


def _unet_name(key: str, layers: int, with_attention: set[str]) -> str:
    stem, kind = key.rsplit(".", 1)
    if stem in _UNET_STEMS:
        return f"{_UNET_STEMS[stem]}.{kind}"
    if match := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)", key):
        way, level, part, layer, rest = match.groups()
        first, per_level = (1, layers + 1) if way == "down" else (0, layers + 1)
        block = f"{'input' if way == 'down' else 'output'}_blocks.{first + int(level) * per_level + int(layer)}"
        return f"{block}.0.{_resnet_part(rest)}" if part == "resnets" else f"{block}.1.{rest}"
    if match := re.fullmatch(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.+)", key):
        return f"input_blocks.{(int(match[1]) + 1) * (layers + 1)}.0.op.{match[2]}"
    if match := re.fullmatch(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.+)", key):
        block = int(match[1]) * (layers + 1) + layers
        return f"output_blocks.{block}.{2 if match[1] in with_attention else 1}.conv.{match[2]}"
    if match := re.fullmatch(r"mid_block\.resnets\.([01])\.(.+)", key):
        return f"middle_block.{2 * int(match[1])}.{_resnet_part(match[2])}"
    if match := re.fullmatch(r"mid_block\.attentions\.0\.(.+)", key):
        return f"middle_block.1.{match[1]}"
    raise ValueError(f'The UNet weight "{key}" has no place in the LDM layout.')


def _resnet_part(rest: str) -> str:
    part, kind = rest.split(".")
    return f"{_UNET_RESNET[part]}.{kind}"


def _count(state: Mapping[str, Tensor], numbered: str) -> int:
    """How many different numbers `numbered` finds at the beginning of the names."""
    return len({match[1] for key in state if (match := re.match(numbered, key))})
