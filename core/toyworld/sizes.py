"""The sizes of the toy world: one object says all of them."""

from dataclasses import dataclass
from typing import Any

_GRID = 32
"""The side on which the detector's and the recogniser's first layers work."""


@dataclass(frozen=True)
class Sizes:
    """How large pictures, latents and networks are.

    Args:
        name: What identities call the encoder.
        picture_side: Side of the pictures in pixels, a multiple of 64.
        latent_ratio: Pixels per latent cell and side.
        latent_channels: Channels of a latent.
        text_width: Width of the text embeddings.
        text_length: Tokens of a prompt.
        unet_widths: Channels of the UNet's levels, from the picture's own grid of cells down.
        unet_attention: Per level, whether it has attention; the middle always has.
        vae_width: Channels of the VAE's convolutions on the grid of cells.
        vae_blocks: Of the encoder and of the decoder.
        vae_fine_width: Channels of the decoder's convolutions on a grid twice as fine.
        vae_fine_blocks: How many of those there are.
    """

    name: str
    picture_side: int
    latent_ratio: int
    latent_channels: int
    text_width: int
    text_length: int
    unet_widths: tuple[int, ...]
    unet_attention: tuple[bool, ...]
    vae_width: int
    vae_blocks: tuple[int, int]
    vae_fine_width: int
    vae_fine_blocks: int

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


TOY_WORLD = Sizes(
    name="toy-world-2",
    picture_side=128,
    latent_ratio=8,
    latent_channels=16,
    text_width=160,
    text_length=40,
    unet_widths=(64, 128, 128),
    unet_attention=(True, True, False),  # on the 16 x 16 and 8 x 8 grids, and in the middle, which is 4 x 4
    vae_width=96,
    vae_blocks=(2, 2),
    vae_fine_width=64,
    vae_fine_blocks=3,
)
