"""A random CLIP image encoder as deep as ViT-H, by which the host knows it, but narrow.

The pack `tests/host/shrink_encoders` lets the host build it so.
"""

from pathlib import Path

from safetensors.torch import save_file

from tests.stand_ins.weights import Shapes, join, linear, norm, random_weights

WIDTH = 64  # 1280 in the real file
MLP, LAYERS, PATCH, IMAGE, OUT = 64, 32, 14, 224, 1024  # the MLP is 5120 wide in the real file


def write_clip_vision(path: Path) -> None:
    head = linear("visual_projection", WIDTH, OUT, bias=False)
    save_file(random_weights(join(vision_model(WIDTH, MLP, LAYERS, PATCH, IMAGE), head), seed=9), path)


def vision_model(width: int, mlp: int, layers: int, patch: int, image: int) -> Shapes:
    """The tower without its projection, in the names of transformers."""
    root = "vision_model"
    parts: list[Shapes] = [
        {
            f"{root}.embeddings.class_embedding": (width,),
            f"{root}.embeddings.patch_embedding.weight": (width, 3, patch, patch),
            f"{root}.embeddings.position_embedding.weight": ((image // patch) ** 2 + 1, width),
        },
        norm(f"{root}.pre_layrnorm", width),
        norm(f"{root}.post_layernorm", width),
    ]
    for layer in range(layers):
        name = f"{root}.encoder.layers.{layer}"
        parts += [norm(f"{name}.layer_norm{i}", width) for i in (1, 2)]
        parts += [linear(f"{name}.self_attn.{p}_proj", width, width) for p in ("q", "k", "v", "out")]
        parts += [linear(f"{name}.mlp.fc1", width, mlp), linear(f"{name}.mlp.fc2", mlp, width)]
    return join(*parts)
