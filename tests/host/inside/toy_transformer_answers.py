"""What the toy world's transformer says in the host: `... COMFYUI BASE_DIRECTORY WEIGHTS QUESTIONS ANSWERS`.

As `toyworld_answers.py`, for `test_toy_transformer_parity.py`. WEIGHTS is a folder of random weights.
"""

import json
import sys
from pathlib import Path
from typing import Any

COMFYUI, BASE_DIRECTORY, WEIGHTS, QUESTIONS, ANSWERS = (Path(argument).absolute() for argument in sys.argv[1:6])
sys.argv[1:] = ["--cpu", "--base-directory", str(BASE_DIRECTORY)]  # for the host, which reads them when imported
sys.path.insert(1, str(COMFYUI))
import setting  # noqa: E402, F401 - prepares the host before anything of it is imported
import torch  # noqa: E402
from families import sixteen_channels  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from story_identity.core.identity import Identity  # noqa: E402
from story_identity.core.layout import Layout  # noqa: E402
from story_identity.core.story import Story  # noqa: E402
from story_identity.nodes.amsa import AMSANode  # noqa: E402
from story_identity.nodes.host.references import with_references  # noqa: E402
from story_identity.nodes.host.toy_transformer import load_transformer, load_transformer_clip  # noqa: E402
from story_identity.nodes.sampling import CastNode, NoisyLatentCacheNode, RedenoiseNode  # noqa: E402
from story_identity.nodes.story import EncodeStoryNode  # noqa: E402

import nodes  # noqa: E402

Tensors = dict[str, torch.Tensor]


def of_network(model: Any, asked: Tensors) -> Tensors:
    network, given = model.model.diffusion_model, [asked[key] for key in ("latents", "times", "context")]
    references = [asked["wide reference"], asked["high reference"]]
    return {
        f"prediction {count}": network(*given, y=asked["pooled"], ref_latents=references[:count] or None)
        for count in range(3)
    } | {"sigmas": model.get_model_object("model_sampling").sigmas}


def of_frame(model: Any, encode: Any, asked: Tensors, told: dict[str, Any]) -> Tensors:
    """Template and re-denoised frame, as latents."""
    common = {key: told[key] for key in ("seed", "steps", "cfg")}
    drawn = {"positive": encode(told["prompt"]), "negative": encode(""), "latent_image": sixteen_channels(128, 128, 1)}
    how = {"sampler_name": "euler", "scheduler": "simple", "denoise": 1.0, "precision": "float32"}
    latent, cached = NoisyLatentCacheNode.execute(model, **drawn, **common, **how, keep_from_step=told["start"]).result
    cast = ()
    for name, reference in zip(told["names"], ("wide reference", "high reference"), strict=True):
        positive = with_references(encode(told["prompt"]), [asked[reference][:1]], "the model's own")
        (cast,) = CastNode.execute(Identity(name, "", "toy", torch.ones(1)), positive, encode(""), cast).result
    layout = Layout(tuple(told["names"]), asked["masks"].bool(), "frame 1")
    again, _ = RedenoiseNode.execute(model, cast, cached, layout, told["start"], 50, told["cfg"], "hard").result
    return {"template": latent["samples"], "frame": again["samples"]}


def of_frames_together(model: Any, clip: Any, told: dict[str, Any]) -> Tensors:
    """Latents of a story's frames, a batch with one seed: with AMSA and without."""
    story = Story.parse(told["story"])
    positive, negative, frames = EncodeStoryNode.execute(clip, story).result
    sharing = {"strength": 1.0, "layers": "all", "same_character": True, "threshold": 0.0, "decay": 0.5, "anchors": 0}
    (shared,) = AMSANode.execute(model, story, **sharing, start_percent=0.0, end_percent=1.0).result
    how = (*(told[key] for key in ("seed", "steps", "cfg")), "euler", "simple", positive, negative)
    empty = sixteen_channels(128, 128, frames)
    models = {"apart": model, "together": shared}
    return {name: nodes.KSampler().sample(each, *how, empty)[0]["samples"] for name, each in models.items()}


if __name__ == "__main__":
    with safe_open(QUESTIONS, framework="pt") as file, torch.inference_mode():
        asked = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        told = json.loads(file.metadata()["told"])
        model, clip = load_transformer(WEIGHTS, vae=WEIGHTS), load_transformer_clip(WEIGHTS)

        def encode(text: str) -> Any:
            return nodes.CLIPTextEncode().encode(clip, text)[0]

        encoded = [encode(text)[0] for text in told["prompts"]]
        answers = of_network(model, asked) | of_frame(model, encode, asked, told)
        answers |= of_frames_together(model, clip, told)
        answers["text"] = torch.cat([text for text, _ in encoded])
        answers["pooled"] = torch.cat([extras["pooled_output"] for _, extras in encoded])
    save_file({name: tensor.contiguous() for name, tensor in answers.items()}, ANSWERS)
