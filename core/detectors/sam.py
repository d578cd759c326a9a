"""Masks of what is in boxes, by SAM (Kirillov et al. 2023, arXiv:2304.02643)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..quoting import printable
from ..shapes import Bool, Float
from ..state_dict import refuse_notes, sizes_from
from . import sam_keys as keys
from .files import read_state_dict, require_package
from .key_mapping import rename
from .pictures import normalised, scaled_colours

# The mean and deviation of colours in [0, 255].
MEAN = (123.675, 116.28, 103.53)
DEVIATION = (58.395, 57.12, 57.375)

# (network, pixels, boxes in pixels of the network's input) to one coarse mask of logits per box.
Forward = Callable[[torch.nn.Module, Float[Tensor, "3 side side"], Float[Tensor, "n 4"]], Float[Tensor, "n c c"]]


class SamSegmenter:
    """SAM behind `MaskSegmenter`, whichever implementation `forward` calls."""

    def __init__(self, module: torch.nn.Module, forward: Forward, side: int) -> None:
        self.module = module
        self._forward = forward
        self._side = side

    def segment(self, image: Float[Tensor, "h w 3"], boxes: Float[Tensor, "n 4"]) -> Bool[Tensor, "n h w"]:
        """Give the mask of the one thing in each box.

        Args:
            image: In [0, 1]. It is scaled as in training, to a longer side of 1024 pixels in the published models.
            boxes: x0 y0 x1 y1 in pixels of the image.

        Returns:
            One mask per box, in the order of the boxes, on the CPU; none for no boxes.
        """
        height, width, _ = image.shape
        if not len(boxes):
            return torch.zeros(0, height, width, dtype=torch.bool)
        device = next(self.module.parameters()).device
        inner = resized(height, width, self._side)
        scale = torch.tensor([inner[1] / width, inner[0] / height] * 2, dtype=torch.float64)
        with torch.no_grad():
            scaled = (boxes.detach().cpu().double() * scale).float().to(device)
            coarse = self._forward(self.module, pixels_of(image, self._side).to(device), scaled)
            return (enlarge(coarse.float(), self._side, inner, (height, width)) > 0).cpu()


def resized(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width after scaling the longer of them to `side` pixels."""
    scale = side / max(height, width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def pixels_of(image: Float[Tensor, "h w 3"], side: int) -> Float[Tensor, "3 side side"]:
    """Scale the image in 8 bits, as the authors do, normalise its colours and pad it below or to the right."""
    height, width = resized(image.shape[0], image.shape[1], side)
    colours = normalised(scaled_colours(image, height, width), MEAN, DEVIATION)
    return F.pad(colours, (0, side - width, 0, side - height))


def enlarge(
    coarse: Float[Tensor, "n c c"], side: int, inner: tuple[int, int], outer: tuple[int, int]
) -> Float[Tensor, "n h w"]:
    """Bring coarse logits to the size of the image: up to the network's input, without its padding, then to `outer`."""
    full = F.interpolate(coarse[None], (side, side), mode="bilinear", align_corners=False)
    return F.interpolate(full[..., : inner[0], : inner[1]], outer, mode="bilinear", align_corners=False)[0]


def load_model(path: Path) -> tuple[torch.nn.Module, Forward, int]:
    """Build transformers' SAM around the file; also the side of its input in pixels.

    Raises:
        ModuleNotFoundError: If transformers is not installed.
        ValueError: If the file is no SAM, or not all of it.
    """
    state = read_state_dict(path, "SAM")
    with require_package("transformers", "the engine transformers"):
        from transformers import SamModel
    name = printable(str(path))
    with sizes_from(name, "SAM"):
        architecture = keys.architecture_of(state, name)
        renamed = rename(state, keys.TRANSFORMERS_NAMES)
        renamed[keys.IMAGE_POSITIONS] = renamed[keys.PROMPT_POSITIONS].clone()
        loaded: Any = SamModel.from_pretrained(
            None,
            config=config_of(architecture),
            state_dict=renamed,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    module, notes = loaded
    refuse_notes(notes, name, "SAM")
    return module.eval(), _run, architecture.image


def _run(module: torch.nn.Module, pixels: Float[Tensor, "3 side side"], boxes: Float[Tensor, "n 4"]) -> Tensor:
    output = module(pixel_values=pixels[None], input_boxes=boxes[None], multimask_output=False)
    return output.pred_masks[0, :, 0]


def config_of(architecture: keys.SamArchitecture) -> Any:
    """What transformers builds the network from."""
    from transformers import SamConfig, SamMaskDecoderConfig, SamPromptEncoderConfig, SamVisionConfig

    vision = SamVisionConfig(
        hidden_size=architecture.width,
        output_channels=architecture.prompt_width,
        num_hidden_layers=architecture.layers,
        num_attention_heads=architecture.heads,
        image_size=architecture.image,
        patch_size=architecture.patch,
        window_size=architecture.window,
        global_attn_indexes=list(architecture.global_layers),
        num_pos_feats=architecture.prompt_width // 2,
        mlp_dim=architecture.feed_forward,
    )
    prompt = SamPromptEncoderConfig(
        hidden_size=architecture.prompt_width,
        image_size=architecture.image,
        patch_size=architecture.patch,
        mask_input_channels=architecture.mask_channels,
    )
    decoder = SamMaskDecoderConfig(
        hidden_size=architecture.prompt_width,
        mlp_dim=architecture.decoder_feed_forward,
        num_hidden_layers=architecture.decoder_layers,
        num_attention_heads=keys.DECODER_HEADS,
        attention_downsample_rate=architecture.attention_downsampling,
        num_multimask_outputs=architecture.masks,
        iou_head_hidden_dim=architecture.score_width,
        # The authors' value in the only layers this reaches; the default of transformers differs.
        layer_norm_eps=1e-5,
    )
    return SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
