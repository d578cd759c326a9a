"""PhotoMaker v1: its image encoder, its LoRA, and the fusion of an identity into a prompt.

The PHOTOMAKER value is a module that the stock PhotoMaker Encode node accepts as well; ours accept the stock loader's.
Sizes are read from the file, so small encoders of the same shape load too. Source: PhotoMaker (Li et al. 2024), section
3.2; IdentityStory, section 3.1.
"""

import pickle
from typing import Any

import comfy.clip_model
import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.utils
import torch
from torch import Tensor, nn

ENCODER_ID = "photomaker-v1"
TEXT_WIDTH = 2048
_HEAD_WIDTH = 64


def vision_config(weights: dict[str, Tensor]) -> dict[str, Any]:
    """The CLIP vision tower's sizes, read from its weights."""
    patches = weights["vision_model.embeddings.patch_embedding.weight"]
    positions = weights["vision_model.embeddings.position_embedding.weight"]
    layers = {key.split(".")[3] for key in weights if key.startswith("vision_model.encoder.layers.")}
    side = round((positions.shape[0] - 1) ** 0.5)
    return {
        "model_type": "clip_vision_model",
        "hidden_act": "quick_gelu",
        "num_channels": 3,
        "hidden_size": patches.shape[0],
        "patch_size": patches.shape[-1],
        "image_size": side * patches.shape[-1],
        "num_hidden_layers": len(layers),
        "num_attention_heads": max(1, patches.shape[0] // _HEAD_WIDTH),
        "intermediate_size": weights["vision_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        "projection_dim": weights["visual_projection.weight"].shape[0],
    }


class _FuseMLP(nn.Module):
    """LayerNorm, two linear layers with GELU between, and (where the widths agree) a residual."""

    def __init__(self, width_in: int, width_out: int, hidden: int, residual: bool, operations: Any) -> None:
        super().__init__()
        self.layernorm = operations.LayerNorm(width_in)
        self.fc1 = operations.Linear(width_in, hidden)
        self.fc2 = operations.Linear(hidden, width_out)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        out = self.fc2(nn.functional.gelu(self.fc1(self.layernorm(x))))
        return out + x if self.residual else out


class FuseModule(nn.Module):
    """Merges the class word's text embedding with an identity embedding of the same width."""

    def __init__(self, width: int, operations: Any) -> None:
        super().__init__()
        self.mlp1 = _FuseMLP(2 * width, width, width, False, operations)
        self.mlp2 = _FuseMLP(width, width, width, True, operations)
        self.layer_norm = operations.LayerNorm(width)

    def fuse_fn(self, prompt_embeds: Tensor, id_embeds: Tensor) -> Tensor:
        """Fuse rows `(n, width)` of text with rows of identity."""
        fused = self.mlp1(torch.cat([prompt_embeds, id_embeds], dim=-1)) + prompt_embeds
        return self.layer_norm(self.mlp2(fused))


class PhotoMakerEncoder(comfy.clip_model.CLIPVisionModelProjection):
    """The image encoder with both projections and the fuse module, under the host's memory management."""

    encoder_id = ENCODER_ID

    def __init__(self, weights: dict[str, Tensor]) -> None:
        management = comfy.model_management
        self.load_device = management.text_encoder_device()
        offload_device = management.text_encoder_offload_device()
        config = vision_config(weights)
        operations = comfy.ops.manual_cast
        super().__init__(config, management.text_encoder_dtype(self.load_device), offload_device, operations)
        self.image_size = config["image_size"]
        second = weights["visual_projection_2.weight"].shape[0]
        self.visual_projection_2 = operations.Linear(config["hidden_size"], second, bias=False)
        self.fuse_module = FuseModule(config["projection_dim"] + second, operations)
        self.eval()
        # Kept out of the module tree: the patcher holds this module.
        patcher_class = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
        self.__dict__["patcher"] = patcher_class(self, self.load_device, offload_device)
        dynamic = getattr(self.patcher, "is_dynamic", lambda: False)()
        self.load_state_dict(weights, assign=dynamic)

    def forward(self, id_pixel_values: Tensor, prompt_embeds: Tensor, class_tokens_mask: Tensor) -> Tensor:
        """What the stock PhotoMaker Encode node calls: pixels `(1, n, 3, h, w)`, text `(1, t, d)`, mask `(1, t)`."""
        embeddings = image_embeddings(self, id_pixel_values[0])
        fused = self.fuse_module.fuse_fn(prompt_embeds[class_tokens_mask], embeddings[: class_tokens_mask.sum()])
        result = prompt_embeds.clone()
        result[class_tokens_mask] = fused.to(result.dtype)
        return result


def image_embeddings(photomaker: Any, pixels: Tensor) -> Tensor:
    """Identity embeddings `(m, d)` of preprocessed pixels: both projections of the pooled tokens, side by side."""
    pooled = photomaker.vision_model(pixels)[2]
    return torch.cat([photomaker.visual_projection(pooled), photomaker.visual_projection_2(pooled)], dim=-1)


def load_weights(path: str, name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Encoder and LoRA of a PhotoMaker v1 file.

    Raises:
        ValueError: If the file is PhotoMaker v2 or something else; the message says what was found.
    """
    try:
        data = comfy.utils.load_torch_file(path, safe_load=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise ValueError(
            f'"{name}" cannot be read as weights ({type(error).__name__}): it is incomplete, or not a file of weights. '
            "Fetch photomaker-v1.bin again."
        ) from error
    encoder, lora = data.get("id_encoder"), data.get("lora_weights")
    if not isinstance(encoder, dict) or not isinstance(lora, dict):
        raise ValueError(
            f'"{name}" is not a PhotoMaker file: it has {sorted(data)[:4]}, not id_encoder and lora_weights.'
        )
    if any(key.startswith("qformer_perceiver") for key in encoder):
        raise ValueError(
            f'"{name}" is PhotoMaker v2, which needs a face recogniser whose models are non-commercial. '
            "Use photomaker-v1.bin."
        )
    if "visual_projection_2.weight" not in encoder:
        raise ValueError(f'"{name}" has no visual_projection_2 in its encoder; expected PhotoMaker v1 for SDXL.')
    return encoder, lora


def apply_lora(model: Any, lora: dict[str, Tensor], strength: float, name: str) -> Any:
    """The MODEL with PhotoMaker's LoRA on it (a clone; the input is untouched).

    Raises:
        ValueError: If the LoRA is made for another kind of model.
    """
    family = type(model.model.model_config).__name__
    width = model.model.model_config.unet_config.get("context_dim")
    if width != TEXT_WIDTH:
        raise ValueError(
            f'"{name}" (PhotoMaker v1) is made for SDXL, whose prompts are {TEXT_WIDTH} wide; this {family} model '
            f"reads {width}. Load an SDXL checkpoint."
        )
    key_map = comfy.lora.model_lora_keys_unet(model.model, {})
    patches = comfy.lora.load_lora(lora, key_map)
    patched = model.clone()
    if not patched.add_patches(patches, strength):
        raise ValueError(
            f'The LoRA in "{name}" fits none of the layers of this {family} model: its names are not those of SDXL.'
        )
    return patched


def embed_portraits(photomaker: Any, images: Tensor, batch_size: int, advance: Any) -> Tensor:
    """Identity embeddings `(m, d)`, float32 on the CPU, of portraits `(m, h, w, 3)`, in sub-batches."""
    _to_device(photomaker)
    rows = []
    for start in range(0, len(images), batch_size):
        comfy.model_management.throw_exception_if_processing_interrupted()
        batch = images[start : start + batch_size].to(photomaker.load_device)
        size = getattr(photomaker, "image_size", 224)
        pixels = comfy.clip_model.clip_preprocess(batch, size=size).float()
        rows.append(image_embeddings(photomaker, pixels).to("cpu", torch.float32))
        advance(len(batch))
    return torch.cat(rows)


def fuse_identity(photomaker: Any, conditioning: Tensor, embedding: Tensor, position: int) -> Tensor:
    """Replace the token at `position` of a conditioning `(1, t, d)` by its fusion with an identity `(d,)`."""
    _to_device(photomaker)
    device = photomaker.load_device
    text = conditioning[:, position].to(device)
    fused = photomaker.fuse_module.fuse_fn(text, embedding.unsqueeze(0).to(device, text.dtype))
    result = conditioning.clone()
    result[:, position] = fused.to(conditioning.device, conditioning.dtype)
    return result


def encoder_id(photomaker: Any) -> str:
    """Which encoder identities of this PHOTOMAKER belong to; the stock loader's is PhotoMaker v1."""
    return getattr(photomaker, "encoder_id", ENCODER_ID)


def _to_device(photomaker: Any) -> None:
    """Load our encoder; the stock loader's casts its weights as it goes."""
    patcher = getattr(photomaker, "patcher", None)
    if patcher is not None:
        comfy.model_management.load_models_gpu([patcher])
