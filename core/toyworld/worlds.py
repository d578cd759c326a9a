"""The sizes of the toy world, of which there are two: one object says all of them.

A folder of weights says in `world.json` which world they belong to; folders without that file are of the first.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..quoting import printable, quote, quote_all

NOTE = "world.json"
"""The file next to the weights that names their world."""

_GRID = 32
"""The side on which the detector's and the recogniser's first layers work, whatever the picture's."""


@dataclass(frozen=True)
class World:
    """How large pictures, latents and networks are.

    Args:
        name: What `world.json` and identities call it.
        picture_side: Side of the pictures in pixels, a multiple of 64.
        latent_ratio: Pixels per latent cell and side.
        latent_channels: Channels of a latent.
        text_width: Width of the text embeddings. The worlds differ in it: it tells whose an identity encoder is.
        unet_widths: Channels of the UNet's levels, from the picture's own grid of cells down.
        unet_attention: Per level, whether it has attention; the middle always has.
        vae_width: Channels of the VAE's convolutions on the grid of cells.
        vae_blocks: Of the encoder and of the decoder.
        vae_fine_width: Channels of the decoder's convolutions on a grid twice as fine.
        vae_fine_blocks: How many of those there are; 0 leaves them out.
        figure_sizes: How large grown-ups are drawn where there are 1, 2 and 3 people.
        detailed: Whether faces are drawn for large pictures: open mouths, lids, lights in the eyes.
    """

    name: str
    picture_side: int
    latent_ratio: int
    latent_channels: int
    text_width: int
    unet_widths: tuple[int, ...]
    unet_attention: tuple[bool, ...]
    vae_width: int
    vae_blocks: tuple[int, int]
    vae_fine_width: int
    vae_fine_blocks: int
    figure_sizes: tuple[float, float, float]
    detailed: bool
    text_length: int = 40

    @property
    def latent_side(self) -> int:
        return self.picture_side // self.latent_ratio

    @property
    def scale(self) -> int:
        """Pixels per unit of length of the drawings, in which every picture is 64 wide."""
        return self.picture_side // 64

    @property
    def crop_side(self) -> int:
        """Side of the head crops that the detector and the identity encoder read, in pixels."""
        return self.picture_side // 2

    @property
    def patch(self) -> int:
        """Pixels per cell and side of the first layer of the networks that read pictures."""
        return self.picture_side // _GRID

    @property
    def unet(self) -> dict[str, Any]:
        """The UNet's sizes in the words of diffusers' UNet2DConditionModel."""
        kinds = ["CrossAttn" * attention for attention in self.unet_attention]
        return {
            "sample_size": self.latent_side,
            "in_channels": self.latent_channels,
            "out_channels": self.latent_channels,
            "layers_per_block": 1,
            "block_out_channels": self.unet_widths,
            "down_block_types": tuple(f"{kind}DownBlock2D" for kind in kinds),
            "up_block_types": tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
            "cross_attention_dim": self.text_width,
            "attention_head_dim": 4,  # diffusers means the number of heads
            "norm_num_groups": 32,
        }

    @property
    def text_encoder(self) -> dict[str, Any]:
        """The text encoder's sizes in the words of transformers' CLIPTextConfig, without the number of words."""
        return {
            "hidden_size": self.text_width,
            "intermediate_size": 3 * self.text_width,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": self.text_length,
            "hidden_act": "gelu",
            "projection_dim": self.text_width,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 1,
        }


TOY_WORLD_1 = World(
    name="toy-world-1",
    picture_side=64,
    latent_ratio=4,
    latent_channels=8,
    text_width=128,
    unet_widths=(64, 128),
    unet_attention=(False, True),  # on the 8 x 8 grid alone
    vae_width=96,
    vae_blocks=(2, 5),
    vae_fine_width=0,
    vae_fine_blocks=0,
    figure_sizes=(1.0, 1.0, 0.8),
    detailed=False,
)
TOY_WORLD_2 = World(
    name="toy-world-2",
    picture_side=128,
    latent_ratio=8,
    latent_channels=16,
    text_width=160,
    unet_widths=(64, 128, 128),
    unet_attention=(True, True, False),  # on the 16 x 16 and 8 x 8 grids, and in the middle, which is 4 x 4
    vae_width=96,
    vae_blocks=(2, 2),
    vae_fine_width=64,
    vae_fine_blocks=3,
    figure_sizes=(1.2, 1.12, 0.86),
    detailed=True,
)
WORLDS = {world.name: world for world in (TOY_WORLD_1, TOY_WORLD_2)}


def world_called(name: object) -> World:
    """The world of a name; ValueError if there is none."""
    if not isinstance(name, str) or name not in WORLDS:
        raise ValueError(f"There is no toy world {quote(name)}. There are {quote_all(list(WORLDS))}.")
    return WORLDS[name]


def world_of(folder: Path) -> World:
    """The world that the weights in a folder belong to: the first, unless `world.json` there names another.

    Raises:
        ValueError: If the file cannot be read or names no world.
    """
    path = folder / NOTE
    if not path.is_file():
        return TOY_WORLD_1
    try:
        return world_called(json.loads(path.read_text(encoding="utf-8-sig"))["world"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{printable(str(path))} does not say which toy world the weights next to it belong to: "
            f'{printable(str(error), 300)} It must be such as {{"world": "{TOY_WORLD_2.name}"}}.'
        ) from error


def claim_folder(world: World, folder: Path) -> None:
    """Say in a folder which world its weights belong to; the first world needs no note.

    Raises:
        ValueError: If there are weights of another world.
    """
    if any(folder.glob("*.safetensors")) and world_of(folder) != world:
        raise ValueError(
            f"{printable(str(folder))} holds weights of {world_of(folder).name}, not of {world.name}: choose another "
            "folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    if world != TOY_WORLD_1:
        (folder / NOTE).write_text(json.dumps({"world": world.name}) + "\n", encoding="utf-8")
