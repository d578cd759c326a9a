"""What the toy world says in the host: `toyworld_answers.py COMFYUI BASE_DIRECTORY QUESTIONS ANSWERS`.

Both files are safetensors. QUESTIONS has the tensors that `test_toyworld_parity.py` puts to the networks, its metadata
the texts and settings; ANSWERS has the host's answers. Nothing is compared here, since diffusers is not installed
beside ComfyUI. A synchronizer LoRA lies among the host's LoRAs.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

COMFYUI, BASE_DIRECTORY, QUESTIONS, ANSWERS = (Path(argument).absolute() for argument in sys.argv[1:5])
sys.argv[1:] = ["--cpu", "--base-directory", str(BASE_DIRECTORY)]  # for the host, which reads them when imported
sys.path.insert(1, str(COMFYUI))
import setting  # noqa: E402, F401 - prepares the host before anything of it is imported
import torch  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from story_identity.core.identity import Identity  # noqa: E402
from story_identity.core.layout import Layout  # noqa: E402
from story_identity.core.story import Story  # noqa: E402
from story_identity.core.toyworld.sizes import TOY_WORLD  # noqa: E402
from story_identity.nodes.amsa import AMSANode  # noqa: E402
from story_identity.nodes.host import photomaker, toyworld  # noqa: E402
from story_identity.nodes.identity import IdentityConditioningNode  # noqa: E402
from story_identity.nodes.sampling import CastNode, NoisyLatentCacheNode, RedenoiseNode  # noqa: E402
from story_identity.nodes.story import EncodeStoryNode  # noqa: E402

import nodes  # noqa: E402

Tensors = dict[str, torch.Tensor]


class World:
    """The loaded networks."""

    def __init__(self) -> None:
        self.model, self.vae, self.clip = toyworld.load_model(), toyworld.load_vae(), toyworld.load_clip()
        self.identity_model, self.photomaker = toyworld.load_identity_generator(self.model)

    def encode(self, text: str) -> Any:
        return nodes.CLIPTextEncode().encode(self.clip, text)[0]

    def decode(self, latent: dict[str, Any]) -> torch.Tensor:
        return nodes.VAEDecode().decode(self.vae, latent)[0]


def of_networks(world: World, asked: Tensors, prompts: list[str]) -> Tensors:
    embedded = photomaker.embed_portraits(world.photomaker, asked["pictures"], 8, lambda _: None)
    unet = world.model.model.diffusion_model
    return {
        "prediction": unet(asked["latents"], asked["timesteps"], context=asked["context"]),
        "pictures": world.decode({"samples": asked["latents"]}),
        "encoded": nodes.VAEEncode().encode(world.vae, asked["pictures"])[0]["samples"],
        "text": torch.cat([world.encode(prompt)[0][0] for prompt in prompts]),
        "sigmas": world.model.get_model_object("model_sampling").sigmas,
        "embedded": embedded,
    }


def of_synchronizer(world: World, asked: Tensors, file: str) -> Tensors:
    """What the UNet predicts with the LoRA from the stock loader, which says what of a file it does not use."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger().addHandler(handler)
    (patched,) = nodes.LoraLoaderModelOnly().load_lora_model_only(world.model, file, 1.0)
    logging.getLogger().removeHandler(handler)
    assert not said, said
    patched.patch_model()
    predicted = patched.model.diffusion_model(asked["latents"], asked["timesteps"], context=asked["context"])
    patched.unpatch_model()
    return {"synchronized": predicted, "patches": torch.tensor(len(patched.patches))}


def of_frames(world: World, asked: Tensors, story: Any, ways: list[list[str]], settings: dict[str, Any]) -> Tensors:
    """Template and re-denoised frame, as latents and the latter as a picture, for every sampler and scheduler asked."""
    (frame,) = Story.parse(story).frames
    layout = Layout(tuple(person.name for person in frame.cast), asked["masks"].bool(), frame.label)
    negative, cast = world.encode(frame.negative), ()
    for person, embedding in zip(frame.cast, asked["identities"], strict=True):
        identity = Identity(person.name, "", photomaker.encoder_id(world.photomaker), embedding)
        (positive,) = IdentityConditioningNode.execute(world.clip, world.photomaker, identity, frame).result
        (cast,) = CastNode.execute(identity, positive, negative, cast).result
    common = {key: settings[key] for key in ("seed", "steps", "cfg")}
    said = {}
    for sampler, scheduler in ways:
        (empty,) = nodes.EmptyLatentImage().generate(*[TOY_WORLD.picture_side] * 2, 1)
        drawn = {"positive": world.encode(frame.prompt), "negative": negative, "latent_image": empty, **common}
        latent, cache = NoisyLatentCacheNode.execute(
            world.model,
            **drawn,
            sampler_name=sampler,
            scheduler=scheduler,
            denoise=1.0,
            keep_from_step=settings["start"],
            precision="float32",
        ).result
        how = (settings[key] for key in ("start", "max_kernel", "cfg"))
        again, _ = RedenoiseNode.execute(world.identity_model, cast, cache, layout, *how, "hard").result
        way = f"{sampler} {scheduler}"
        said |= {f"template {way}": latent["samples"], f"frame {way}": again["samples"]}
        said[f"picture {way}"] = world.decode(again)
    return said


def of_frames_together(world: World, story: Any, settings: dict[str, Any]) -> Tensors:
    """Latents of a story's frames, a batch with one seed: with AMSA in every way that is asked about, and without."""
    told = Story.parse(story)
    positive, negative, frames = EncodeStoryNode.execute(world.clip, told).result
    sharing = {"strength": 1.0, "layers": "all", "same_character": True, "threshold": 0.0, "decay": 0.5}
    (empty,) = nodes.EmptyLatentImage().generate(*[TOY_WORLD.picture_side] * 2, frames)
    how = (*(settings[key] for key in ("seed", "steps", "cfg")), "euler", "simple", positive, negative, empty)
    models = {"apart": world.model}
    for name, chosen in settings["together"].items():
        (models[name],) = AMSANode.execute(world.model, told, **sharing, **chosen).result
    return {name: nodes.KSampler().sample(model, *how)[0]["samples"] for name, model in models.items()}


if __name__ == "__main__":
    with safe_open(QUESTIONS, framework="pt") as file, torch.inference_mode():
        asked = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        texts = {name: json.loads(text) for name, text in file.metadata().items()}
        world = World()
        answers = of_networks(world, asked, texts["prompts"])
        answers |= of_synchronizer(world, asked, texts["synchronizer"])
        answers |= of_frames(world, asked, texts["story"], texts["ways"], texts["settings"])
        answers |= of_frames_together(world, texts["long_story"], texts["settings"])
    save_file({name: tensor.contiguous() for name, tensor in answers.items()}, ANSWERS)
