"""PhotoMaker in the host: its image encoder, its LoRA, and the fusion of an identity into a prompt.

The PHOTOMAKER value is a module. Version 1's goes into the stock PhotoMaker Encode node as well; ours accept the stock
loader's. Version 2's brings the face recogniser along that it was loaded with. Sizes are read from the file, so small
encoders of the same shape load too. Source: PhotoMaker (Li et al. 2024), section 3.2; IdentityStory, section 3.1.
"""

from pathlib import Path
from typing import Any

import comfy.clip_model
import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.utils
import torch
from torch import Tensor

from ...core.detectors.faces import Recogniser
from ...core.lora_file import check_lora, lora_pairs
from ...core.photomaker import (
    ENCODER_ID,
    FuseModule,
    IdentityPerceiver,
    encoder_id_of,
    perceiver_config,
    split_file,
    vision_config,
)
from ...core.quoting import quote
from ...core.state_dict import WeightFileError, named, reading
from .miswiring import mark_generator

_SDXL_WIDTH = 2048
_EXPECTED = "photomaker-v1.bin or photomaker-v2.bin"
_INSIGHTFACE = "Choose insightface in Load Face Recogniser, and connect it to PhotoMaker Loader"
_OTHER_EMBEDDINGS = "auraface"
"""A recogniser whose embeddings are as wide as insightface's and mean something else."""


class PhotoMakerEncoder(comfy.clip_model.CLIPVisionModelProjection):
    """The encoder of version 1 or 2 under the host's memory management: image encoder, projections, fuse module.

    Args:
        weights: The encoder part of the file, as `core.photomaker.split_file` gives it.
        encoder_id: What identities call it; None: by the file's version.
        recogniser: Where version 2 gets its face embeddings from; None where only identities from files are used.
    """

    def __init__(
        self, weights: dict[str, Tensor], encoder_id: str | None = None, recogniser: Recogniser | None = None
    ) -> None:
        management = comfy.model_management
        self.load_device = management.text_encoder_device()
        offload_device = management.text_encoder_offload_device()
        config = vision_config(weights)
        operations = comfy.ops.manual_cast
        super().__init__(config, management.text_encoder_dtype(self.load_device), offload_device, operations)
        self.encoder_id = encoder_id or encoder_id_of(weights)
        self.image_size = config["image_size"]
        second = weights["visual_projection_2.weight"].shape[0]
        self.visual_projection_2 = operations.Linear(config["hidden_size"], second, bias=False)
        self.fuse_module = FuseModule(text_width(weights), operations)
        perceiver = perceiver_config(weights)
        self.qformer_perceiver = None if perceiver is None else IdentityPerceiver(perceiver, operations)
        self.recogniser = recogniser
        self.eval()
        # Kept out of the module tree: the patcher holds this module.
        patcher_class = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
        self.__dict__["patcher"] = patcher_class(self, self.load_device, offload_device)
        dynamic = getattr(self.patcher, "is_dynamic", lambda: False)()
        self.load_state_dict(weights, assign=dynamic)

    def forward(self, id_pixel_values: Tensor, prompt_embeds: Tensor, class_tokens_mask: Tensor) -> Tensor:
        """What the stock PhotoMaker Encode node calls: pixels `(1, n, 3, h, w)`, text `(1, t, d)`, mask `(1, t)`."""
        if self.qformer_perceiver is not None:
            raise ValueError(
                "ComfyUI's PhotoMaker Encode takes PhotoMaker v1; this is v2, which also reads face embeddings. Use "
                "Identity Discovery and Identity Conditioning."
            )
        embeddings = image_embeddings(self, id_pixel_values[0])
        fused = self.fuse_module.fuse_fn(prompt_embeds[class_tokens_mask], embeddings[: class_tokens_mask.sum()])
        result = prompt_embeds.clone()
        result[class_tokens_mask] = fused.to(result.dtype)
        return result


def image_embeddings(photomaker: Any, pixels: Tensor, faces: Tensor | None = None) -> Tensor:
    """Identity embeddings `(m, d)` of preprocessed pixels.

    Version 1 puts both projections of the pooled tokens side by side. Version 2 reads all tokens and the face
    embeddings `(m, w)`; its identity tokens stand one after the other.
    """
    if faces is not None:
        return photomaker.qformer_perceiver(faces, photomaker.vision_model(pixels)[0]).flatten(1)
    pooled = photomaker.vision_model(pixels)[2]
    return torch.cat([photomaker.visual_projection(pooled), photomaker.visual_projection_2(pooled)], dim=-1)


def load_weights(path: str, name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Encoder and LoRA of a PhotoMaker file, the original or a safetensors copy.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is something else, or not all of it; the message says what was found.
    """
    with reading(Path(path), _EXPECTED):
        data = comfy.utils.load_torch_file(path, safe_load=True)
        content = named(data, Path(path), _EXPECTED)
    return split_file(content, quote(name))


def text_width(encoder: dict[str, Tensor]) -> int:
    """The width of the prompts that an encoder's weights are made for."""
    return encoder["fuse_module.layer_norm.weight"].shape[0]


def check_recogniser(encoder: dict[str, Tensor], recogniser: Recogniser, name: str) -> None:
    """Refuse a face recogniser whose embeddings are not those that PhotoMaker v2 was trained with.

    Args:
        encoder: The weights; those of version 1, which reads no faces, suit any recogniser.
        recogniser: The recogniser.
        name: What messages call the file.

    Raises:
        ValueError: If its embeddings are of another width, or known to mean something else.
    """
    config = perceiver_config(encoder)
    if config is None:
        return
    if recogniser.width != config.face_width:
        raise ValueError(
            f"PhotoMaker Loader: {quote(name)} is PhotoMaker v2, which reads face embeddings of {config.face_width} "
            f"numbers; the face recogniser {quote(recogniser.name)} gives {recogniser.width}. {_INSIGHTFACE}."
        )
    if recogniser.name == _OTHER_EMBEDDINGS:
        raise ValueError(
            f"PhotoMaker Loader: {quote(name)} is PhotoMaker v2, which was trained with the face embeddings of "
            f"insightface; those of {quote(recogniser.name)} are as wide and mean something else. {_INSIGHTFACE}."
        )


def face_recogniser(photomaker: Any, node: str = "Identity Discovery") -> Recogniser:
    """The face recogniser of version 2.

    Args:
        photomaker: A PHOTOMAKER of version 2.
        node: Who needs it, for the message.

    Raises:
        ValueError: If it was loaded without one.
    """
    if photomaker.recogniser is None:
        raise ValueError(
            f"{node}: PhotoMaker v2 reads a face embedding of each portrait, and PhotoMaker Loader has no "
            f"face recogniser. {_INSIGHTFACE}; or take PhotoMaker v1, which needs none."
        )
    return photomaker.recogniser


def reads_faces(photomaker: Any) -> bool:
    """Whether this PHOTOMAKER is of version 2."""
    return getattr(photomaker, "qformer_perceiver", None) is not None


def identity_tokens(photomaker: Any) -> int:
    """How many tokens of a prompt an identity is merged into: 1 in version 1, 2 in version 2."""
    return photomaker.qformer_perceiver.config.tokens if reads_faces(photomaker) else 1


def apply_lora(model: Any, lora: dict[str, Tensor], strength: float, name: str, made_for: int) -> Any:
    """The MODEL with PhotoMaker's LoRA on it (a clone; the input is untouched).

    Args:
        model: The MODEL.
        lora: The file's `lora_weights`, as `core.lora_file.lora_pairs` takes them.
        strength: 1 is as trained.
        name: What messages call the file.
        made_for: The width of the prompts it is made for, see `text_width`.

    Raises:
        ValueError: If the LoRA is made for another kind of model, or is not all of it.
    """
    family = type(model.model.model_config).__name__
    width = model.model.model_config.unet_config.get("context_dim")
    if width != made_for:
        whose, load = (", as SDXL's are", "an SDXL checkpoint") if made_for == _SDXL_WIDTH else ("", "its own model")
        if width is None:
            raise ValueError(
                f"{quote(name)} is made for a UNet that reads prompts {made_for} wide{whose}; this {family} model has "
                f"no such UNet. Load {load}."
            )
        raise ValueError(
            f"{quote(name)} is made for prompts that are {made_for} wide{whose}; this {family} model reads {width}. "
            f"Load {load}."
        )
    _check_layers(lora, _layers(model.model), name, family)
    named_for_host = {
        f"lora_unet_{layer.replace('.', '_')}.lora_{half}.weight": tensor
        for layer, both in lora_pairs(lora, quote(name)).items()
        for half, tensor in zip(("down", "up"), both, strict=True)
    }
    patched = patch_unet(model, named_for_host, strength, name)
    return mark_generator(patched) if strength else patched


def _check_layers(lora: dict[str, Tensor], layers: dict[str, tuple[int, ...] | None], name: str, family: str) -> None:
    """Refuse a LoRA that does not fit; of a smaller relative of SDXL say how much of it would act."""
    try:
        check_lora(lora, layers, quote(name), f"this {family} model")
    except WeightFileError as error:
        changed = lora_pairs(lora, quote(name)).keys()
        if family == "SDXL" or not changed - layers.keys():
            raise
        raise WeightFileError(
            f"PhotoMaker Loader: {family} has {len(changed & layers.keys())} of the {len(changed)} layers that the "
            f"LoRA in {quote(name)} changes, so the identity would come through in part only: load an SDXL checkpoint. "
            f"{error}"
        ) from error


def patch_unet(model: Any, lora: dict[str, Tensor], strength: float, name: str) -> Any:
    """The MODEL with a LoRA on its UNet (a clone; the input is untouched).

    Args:
        model: The MODEL.
        lora: Two matrices per layer, in the names that LoRA loaders know (`lora_unet_….lora_down.weight`).
        strength: 1 is as trained.
        name: What messages call the file.

    Raises:
        ValueError: If the UNet does not take all of its layers.
    """
    patches = comfy.lora.load_lora(lora, comfy.lora.model_lora_keys_unet(model.model, {}))
    patched = model.clone()
    taken = len(patched.add_patches(patches, strength))
    if 2 * taken != len(lora):
        family = type(model.model.model_config).__name__
        raise ValueError(f"The LoRA in {quote(name)} has {len(lora) // 2} layers; this {family} model takes {taken}.")
    return patched


def _layers(model: Any) -> dict[str, tuple[int, ...] | None]:
    """The shapes of a UNet's weights by diffusers' names of the layers; None for weights stored in another form."""
    state, names = model.state_dict(), comfy.utils.unet_to_diffusers(model.model_config.unet_config)
    held = {
        name.removesuffix(".weight"): state.get(f"diffusion_model.{own}")
        for name, own in names.items()
        if name.endswith(".weight")
    }
    return {
        name: tuple(weight.shape) if weight.is_floating_point() else None
        for name, weight in held.items()
        if weight is not None
    }


def embed_portraits(
    photomaker: Any, images: Tensor, batch_size: int, advance: Any, faces: Tensor | None = None
) -> Tensor:
    """Identity embeddings `(m, d)`, float32 on the CPU, of portraits `(m, h, w, 3)`, in sub-batches.

    Args:
        photomaker: The encoder.
        images: The portraits.
        batch_size: How many are encoded at a time.
        advance: Called with the number of portraits done.
        faces: For version 2, their face embeddings `(m, w)`, not scaled to unit length.
    """
    _to_device(photomaker)
    rows = []
    for start in range(0, len(images), batch_size):
        comfy.model_management.throw_exception_if_processing_interrupted()
        part = slice(start, start + batch_size)
        batch = images[part].to(photomaker.load_device)
        size = getattr(photomaker, "image_size", 224)
        pixels = comfy.clip_model.clip_preprocess(batch, size=size).float()
        seen = None if faces is None else faces[part].to(pixels)
        rows.append(image_embeddings(photomaker, pixels, seen).to("cpu", torch.float32))
        advance(len(batch))
    return torch.cat(rows)


def fuse_identity(photomaker: Any, conditioning: Tensor, embedding: Tensor, *positions: int) -> Tensor:
    """Merge an identity into a conditioning `(1, t, d)`.

    Args:
        photomaker: The encoder.
        conditioning: The prompt.
        embedding: The identity: its tokens `(tokens * d,)` one after the other.
        positions: Which tokens of the prompt are replaced, one for each of the identity's.
    """
    _to_device(photomaker)
    device, where = photomaker.load_device, list(positions)
    text = conditioning[0, where].to(device)
    tokens = embedding.unflatten(0, (len(where), -1)).to(device, text.dtype)
    result = conditioning.clone()
    result[0, where] = photomaker.fuse_module.fuse_fn(text, tokens).to(conditioning.device, conditioning.dtype)
    return result


def encoder_id(photomaker: Any) -> str:
    """Which encoder identities of this PHOTOMAKER belong to; the stock loader's is PhotoMaker v1."""
    return getattr(photomaker, "encoder_id", ENCODER_ID)


def _to_device(photomaker: Any) -> None:
    """Load our encoder; the stock loader's casts its weights as it goes."""
    patcher = getattr(photomaker, "patcher", None)
    if patcher is not None:
        comfy.model_management.load_models_gpu([patcher])
