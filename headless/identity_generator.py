"""PhotoMaker under diffusers: the identity encoder, and its LoRA, which is in the UNet only in the identity pass."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from ..core.detectors.faces import Recogniser, load_face_recogniser
from ..core.lora_file import check_lora, lora_pairs
from ..core.photomaker import (
    ENCODER_ID,
    ENCODER_ID_V2,
    FuseModule,
    IdentityPerceiver,
    look_at,
    perceiver_config,
    split_file,
    vision_config,
)
from ..core.quoting import printable, quote
from ..core.shapes import Float
from ..core.state_dict import read_tensors
from ..core.toyworld.sizes import TOY_WORLD
from .components import clip_tower, layer_shapes
from .option_values import TOYWORLD
from .prompts import Prompt

Lora = Mapping[str, tuple[Tensor, Tensor]]
"""By the UNet's layers, the two matrices whose product is added to the weights: down `(r, i)`, then up `(o, r)`."""


class PhotoMaker(nn.Module):
    """The encoder of version 1 or 2, in float32: image encoder, both projections, fuse module.

    Args:
        weights: The encoder part of the file, as `core.photomaker.split_file` gives it.
        recogniser: Where version 2 gets its face embeddings from; None where only identities from files are used.
        lora: What `identity_generator` adds to the UNet.
    """

    def __init__(self, weights: Mapping[str, Tensor], recogniser: Recogniser | None, lora: Lora) -> None:
        super().__init__()
        config = vision_config(weights)
        self.image_size = config["image_size"]
        self.vision = vision_tower(weights)
        widths = [len(weights[f"{name}.weight"]) for name in ("visual_projection", "visual_projection_2")]
        self.visual_projection = nn.Linear(config["hidden_size"], widths[0], bias=False)
        self.visual_projection_2 = nn.Linear(config["hidden_size"], widths[1], bias=False)
        perceiver = perceiver_config(weights)
        self.qformer_perceiver = None if perceiver is None else IdentityPerceiver(perceiver)
        self.tokens = 1 if perceiver is None else perceiver.tokens
        self.width = sum(widths) if perceiver is None else perceiver.resampler.width
        self.fuse_module = FuseModule(self.width)
        self.recogniser = recogniser
        self.lora = lora
        rest = {key: value for key, value in weights.items() if not key.startswith("vision_model.")}
        self.load_state_dict(rest | {f"vision.{key}": value for key, value in self.vision.state_dict().items()})
        self.eval()

    @property
    def encoder_id(self) -> str:
        """Which encoder identities made with this file belong to; the text width tells the toy world's from v1."""
        if self.qformer_perceiver is not None:
            return ENCODER_ID_V2
        return TOY_WORLD.name if self.width == TOY_WORLD.text_width else ENCODER_ID

    def require_recogniser(self) -> None:
        """Raise a ValueError if this is version 2, which reads faces, and it was loaded without a recogniser."""
        if self.qformer_perceiver is not None and self.recogniser is None:
            raise ValueError(
                "PhotoMaker v2 reads a face embedding of each portrait: give --face-models, a folder of insightface's "
                "models; or a PhotoMaker v1 file, which needs none."
            )

    @torch.no_grad()
    def embed(self, images: Float[Tensor, "m h w 3"]) -> Float[Tensor, "m d"]:
        """Identity embeddings of version 1, float32 on the CPU: both projections of the pooled tokens, side by side."""
        pooled = self._seen(images).pooler_output
        return torch.cat([self.visual_projection(pooled), self.visual_projection_2(pooled)], dim=-1).cpu()

    @torch.no_grad()
    def embed_found(self, images: Float[Tensor, "m h w 3"]) -> tuple[Float[Tensor, "_ d"], list[int]]:
        """Identity embeddings of either version, float32 on the CPU, and of which pictures.

        Version 2 leaves out pictures without a face; its identity tokens stand one after the other.
        """
        if self.qformer_perceiver is None:
            return self.embed(images), list(range(len(images)))
        self.require_recogniser()
        assert self.recogniser is not None
        faces = [self.recogniser.find(image) for image in images]
        rows = [row for row, face in enumerate(faces) if face is not None]
        if not rows:
            return torch.zeros(0, self.tokens * self.width), rows
        unscaled = torch.stack([face.unscaled for face in faces if face is not None]).float()
        hidden = self._seen(images[rows]).last_hidden_state
        return self.qformer_perceiver(unscaled.to(hidden), hidden).flatten(1).cpu(), rows

    def _seen(self, images: Float[Tensor, "m h w 3"]) -> Any:
        return self.vision(look_at(images.to(self.visual_projection.weight.device), self.image_size))

    @torch.no_grad()
    def fuse(self, prompt: Prompt, position: int | Sequence[int], embedding: Float[Tensor, " d"]) -> Prompt:
        """The prompt with the tokens at one or several positions merged with an identity, a token of it each."""
        device = self.visual_projection.weight.device
        positions = [position] if isinstance(position, int) else list(position)
        text = prompt.embeddings[0, positions].to(device, torch.float32)
        fused = self.fuse_module.fuse_fn(text, embedding.unflatten(0, (len(positions), -1)).to(device))
        for each, token in zip(positions, fused, strict=True):
            prompt = prompt.with_token(each, token)
        return prompt


def vision_tower(weights: Mapping[str, Tensor]) -> CLIPVisionModel:
    """The image encoder of a PhotoMaker file alone; `weights` is the encoder part of it."""
    tower = {key: value.float() for key, value in weights.items() if key.startswith("vision_model.")}
    return clip_tower(CLIPVisionModel, CLIPVisionConfig(**vision_config(weights)), tower)


def load_photomaker(path: Path, pipe: Any, face_models: str = "") -> PhotoMaker:
    """Load the encoder, on the UNet's device, and the file's LoRA.

    Args:
        path: The file, of version 1 or 2.
        pipe: The pipeline, which stays as it is.
        face_models: For version 2, a folder of insightface's models; "" where no identity is to be found.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If the file is no PhotoMaker file, not all of it, or not made for this kind of checkpoint, or the
            face models are not those that it reads.
    """
    name = printable(str(path))
    if not path.exists():
        raise FileNotFoundError(
            f"There is no PhotoMaker file {name}. `story-identity models list` says where to get one."
        )
    encoder, lora = split_file(read_tensors(path, "a PhotoMaker file"), name)
    width, made_for = pipe.unet.config.cross_attention_dim, len(encoder["fuse_module.layer_norm.weight"])
    if made_for != width:
        raise ValueError(
            f"{quote(path.name)} is made for prompts {made_for} wide; this checkpoint reads {width}. PhotoMaker goes "
            "with SDXL checkpoints, the toy world's file with the toy world."
        )
    check_lora(lora, layer_shapes(pipe.unet), name)
    recogniser = _recogniser(encoder, face_models, path.name)
    photomaker = PhotoMaker({key: value.float() for key, value in encoder.items()}, recogniser, lora_pairs(lora, name))
    return photomaker.to(pipe.unet.device)


def _recogniser(encoder: Mapping[str, Tensor], face_models: str, name: str) -> Recogniser | None:
    """The face recogniser of a file of version 2; None for version 1, and where no face models are given."""
    config = perceiver_config(encoder)
    if config is None or not face_models:
        return None
    if face_models == TOYWORLD:
        raise ValueError(
            f"{quote(name)} is PhotoMaker v2, which reads the face embeddings of insightface: give --face-models, a "
            "folder of its models, in place of the toy world's."
        )
    recogniser = load_face_recogniser(Path(face_models))
    if recogniser.width != config.face_width:
        raise ValueError(
            f"{quote(name)} is PhotoMaker v2, which reads face embeddings of {config.face_width} numbers; the face "
            f"models give {recogniser.width}. Give --face-models, a folder of insightface's buffalo_l."
        )
    return recogniser


@contextmanager
def identity_generator(pipe: Any, photomaker: PhotoMaker) -> Iterator[None]:
    """Inside, PhotoMaker's LoRA is merged into the pipeline's UNet; outside it is the base model, bit for bit.

    A LoRA beside the weights would cost a third of the toy world's second pass. The base model's own weights are kept
    in the CPU's memory meanwhile: 1.9 GB of SDXL in half precision.
    """
    weights = {layer: pipe.unet.get_submodule(layer).weight.data for layer in photomaker.lora}
    kept = {layer: weight.to("cpu", copy=True) for layer, weight in weights.items()}
    try:
        for layer, matrices in photomaker.lora.items():
            down, up = (each.to(weights[layer].device, torch.float32).flatten(1) for each in matrices)
            weights[layer].copy_((up @ down).view_as(weights[layer]) + weights[layer])
        yield
    finally:
        for layer, weight in weights.items():
            weight.copy_(kept[layer])
