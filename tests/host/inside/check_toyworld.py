"""The toy world in the host: its loader, the stock nodes on what it gives, and a whole story; shipped weights."""

import hashlib
import shutil
from functools import cache
from pathlib import Path

import comfy.clip_model
import folder_paths
import latent_preview
import numpy as np
import setting
import torch
from safetensors.torch import load_file, save_file
from setting import refused
from story_identity.core.character_mentions import find_word
from story_identity.core.identity import Identity
from story_identity.core.layout import Layout
from story_identity.core.photomaker import look_at
from story_identity.core.redenoise import ProgressiveMasks, to_latent_grid
from story_identity.core.story import Story
from story_identity.core.toyworld.models import WEIGHTS, load_weights
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.lab.toyworld.people import sample_person
from story_identity.lab.toyworld.world import draw as draw_scene
from story_identity.lab.toyworld.world import portrait_plan, sample_scene
from story_identity.nodes.host import photomaker as pm
from story_identity.nodes.host import toyworld
from story_identity.nodes.host.prompt import word_end_position
from story_identity.nodes.host.references import with_references
from story_identity.nodes.identity import CharacterPortraitsNode, IdentityConditioningNode, IdentityDiscoveryNode
from story_identity.nodes.injector import FaceFeaturesNode, ShuffledIDInjectorNode
from story_identity.nodes.layout import GroundedSAMLayoutNode
from story_identity.nodes.sampling import CastNode, NoisyLatentCacheNode, RedenoiseNode
from story_identity.nodes.story import EncodeStoryNode
from story_identity.nodes.toyworld import ToyWorldLoaderNode

import nodes
from tests.closeness import assert_close, largest_difference

SIDE = TOY_WORLD.picture_side
MODEL, IDENTITY_MODEL, CLIP, VAE, PHOTOMAKER, DETECTOR, CLIP_VISION, ADAPTER = range(8)
UNKNOWN = 2
PROMPTS = [
    "a woman",
    "a close-up photo of a woman, waving",
    "a (woman:1.3) and a (boy with (red hair:1.2)) on a beach",
    "Woman. Another WOMAN's hat",
    "an extraordinarily long-winded woman in Kraków",
    ", ".join(f"a red ball {i}" for i in range(12)) + ", a woman at the very end",
    "a womanly girl, a superwoman and a woman",
]


@cache
def world():
    """What the loader gives; one for all checks of this file, so none may leave anything on it."""
    return ToyWorldLoaderNode.execute().result


def encode(text):
    return nodes.CLIPTextEncode().encode(world()[CLIP], text)[0]


def draw(model, text="a woman with red hair on a beach", seed=1, steps=4, batch=1, sampler="euler"):
    (empty,) = nodes.EmptyLatentImage().generate(SIDE, SIDE, batch)
    return nodes.KSampler().sample(model, seed, steps, 4.0, sampler, "simple", encode(text), encode(""), empty)[0]


def pictures(count=8):
    """Scenes of the toy world, (n, side, side, 3) in [0, 1]."""
    return torch.stack([torch.tensor(sample_scene(seed).image) for seed in range(count)]).float() / 255


def story(*frames):
    people = [
        {"name": "Mira", "word": "woman", "description": "a woman with red hair"},
        {"name": "Tom", "word": "boy", "description": "a boy with black hair"},
    ]
    return Story.parse({"characters": people, "frames": list(frames)})


def identity(name="Mira", encoder=TOY_WORLD.name, width=TOY_WORLD.text_width, seed=9):
    return Identity(name, "", encoder, torch.randn(width, generator=torch.Generator().manual_seed(seed)))


def digest(model):
    state = model.model.diffusion_model.state_dict()
    return hashlib.sha256(b"".join(state[key].numpy().tobytes() for key in sorted(state))).hexdigest()


def check_every_weight_has_its_place_and_every_place_its_weight():
    loaded = world()
    text = loaded[CLIP].cond_stage_model.clip_l.transformer
    networks = {"unet": loaded[MODEL].model.diffusion_model, "vae": loaded[VAE].first_stage_model, "text_encoder": text}
    for name, network in networks.items():
        held, stored = network.state_dict(), load_weights(name)
        assert held.keys() - stored.keys() <= {"text_projection.weight"}, name
        assert all(torch.equal(held[key], tensor) for key, tensor in stored.items()), name
    encoder, lora = toyworld.split_file(load_weights("photomaker"), "")
    assert len(loaded[IDENTITY_MODEL].patches) == len(lora) // 2
    tower = loaded[CLIP_VISION].model.state_dict()
    assert tower.keys() == {key for key in encoder if key.startswith(("vision_model.", "visual_projection."))}
    assert all(torch.equal(tensor.float(), encoder[key]) for key, tensor in tower.items())
    held, stored = loaded[ADAPTER].network.state_dict(), load_weights("injector")
    assert held.keys() == stored.keys()
    assert all(torch.equal(held[key], tensor) for key, tensor in stored.items())


def check_weights_that_are_not_whole_are_refused_by_file_and_name():
    folder = Path(folder_paths.get_temp_directory()) / "toyworld"
    shutil.copytree(WEIGHTS, folder, dirs_exist_ok=True)
    loaders = {
        "unet": toyworld.load_model,
        "vae": toyworld.load_vae,
        "text_encoder": toyworld.load_clip,
        "photomaker": lambda folder: toyworld.load_identity_generator(world()[MODEL], folder),
        "detector": toyworld.load_detector,
        "injector": toyworld.load_adapter,
    }
    for name, load in loaders.items():
        path = folder / f"{name}.safetensors"
        whole = load_file(path)
        for key in sorted(whole)[5::40]:
            part = key.removeprefix("id_encoder.").removeprefix("lora_weights.unet.").partition(".lora_")[0]
            rest = {each: value for each, value in whole.items() if each != key}
            for changed in (rest, {**rest, f"{key}x": whole[key]}, {**rest, key: whole[key].to(torch.int16)}):
                save_file(changed, path)
                refused(lambda load=load: load(folder), part, name)
        path.write_bytes(b"")
        refused(lambda load=load: load(folder), f"{name}.safetensors", "it is empty")
        save_file(whole, path)
        load(folder)
    (folder / "tokenizer" / "tokenizer.json").write_text("{")
    refused(lambda: toyworld.load_clip(folder), "tokenizer", "no tokenizer that can be read")


def check_stock_nodes_take_it():
    samples = draw(world()[MODEL], batch=2)
    assert samples["samples"].shape == (2, TOY_WORLD.latent_channels, 16, 16)
    (picture,) = nodes.VAEDecode().decode(world()[VAE], samples)
    assert picture.shape == (2, SIDE, SIDE, 3)
    assert picture.dtype == torch.float32
    assert 0 <= picture.min() < picture.max() <= 1
    (tiled,) = nodes.VAEDecodeTiled().decode(world()[VAE], samples, 64, 16)
    assert tiled.shape == picture.shape
    (again,) = nodes.VAEEncode().encode(world()[VAE], picture)
    assert again["samples"].shape == (2, TOY_WORLD.latent_channels, 16, 16)
    (wide,) = nodes.EmptyLatentImage().generate(96, 64, 1)
    (wide,) = nodes.KSampler().sample(world()[MODEL], 1, 2, 1.0, "euler", "normal", encode("a beach"), encode(""), wide)
    assert nodes.VAEDecode().decode(world()[VAE], wide)[0].shape == (1, 64, 96, 3)


def check_the_vae_gives_a_drawing_back():
    drawn = pictures()
    (latents,) = nodes.VAEEncode().encode(world()[VAE], drawn)
    (again,) = nodes.VAEDecode().decode(world()[VAE], latents)
    assert -10 * (again - drawn).square().mean().log10() > 26  # dB


def check_a_picture_does_not_depend_on_what_was_drawn_before_it():
    loaded = world()
    before = digest(loaded[MODEL])
    a, b, again = (draw(loaded[which])["samples"] for which in (MODEL, IDENTITY_MODEL, MODEL))
    assert torch.equal(a, again)
    assert largest_difference(a, b) > 1e-3
    assert torch.equal(b, draw(loaded[IDENTITY_MODEL])["samples"])
    assert not loaded[MODEL].patches
    draw(loaded[MODEL], steps=1)
    assert digest(loaded[MODEL]) == before


def check_two_loads_are_two_models_that_draw_the_same():
    first, second = world(), ToyWorldLoaderNode.execute().result
    for which in (MODEL, IDENTITY_MODEL):
        assert first[which].model is not second[which].model
        assert torch.equal(draw(first[which])["samples"], draw(second[which])["samples"])


def check_stock_loras_go_on_it():
    random = torch.Generator().manual_seed(3)

    def pair(name, width_in, width_out):
        down, up = torch.randn(2, width_in, generator=random), torch.randn(width_out, 2, generator=random)
        return {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}

    unet = pair("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k", TOY_WORLD.text_width, 128)
    text = pair("lora_te_text_model_encoder_layers_0_self_attn_q_proj", TOY_WORLD.text_width, TOY_WORLD.text_width)
    folder = Path(folder_paths.get_folder_paths("loras")[0])
    folder.mkdir(parents=True, exist_ok=True)
    save_file({**unet, **text}, folder / "toy.safetensors")
    loaded = world()
    plain, words = draw(loaded[MODEL])["samples"], encode("a woman")[0][0]
    model, clip = nodes.LoraLoader().load_lora(loaded[MODEL], loaded[CLIP], "toy.safetensors", 1.0, 1.0)
    assert largest_difference(draw(model)["samples"], plain) > 1e-3
    assert largest_difference(nodes.CLIPTextEncode().encode(clip, "a woman")[0][0][0], words) > 1e-3
    assert torch.equal(draw(loaded[MODEL])["samples"], plain)
    assert torch.equal(encode("a woman")[0][0], words)


def check_prompts_of_every_kind_are_read():
    clip = world()[CLIP]
    for text in ("", "a woman", "A  WOMAN"):
        assert encode(text)[0][0].shape == (1, TOY_WORLD.text_length, TOY_WORLD.text_width)
    assert torch.equal(encode("a woman")[0][0], encode("A  WOMAN")[0][0])
    long = encode(", ".join(["a woman with red hair"] * 12))[0][0]
    assert long.shape[1] > TOY_WORLD.text_length
    assert long.shape[1] % TOY_WORLD.text_length == 0
    ids = [token for token, _ in clip.tokenize("a zorblax, a woman")["l"][0]]
    assert ids[2] == UNKNOWN
    assert ids[6:] == [1] * (TOY_WORLD.text_length - 6)
    assert torch.equal(encode("a zorblax")[0][0], encode("a knight")[0][0])
    heavy, plain, empty = (encode(text)[0][0] for text in ("a (woman:1.5)", "a woman", ""))
    assert_close(heavy[:, 2], empty[:, 2] + 1.5 * (plain[:, 2] - empty[:, 2]))
    assert torch.equal(heavy[:, :2], plain[:, :2])
    assert torch.isfinite(encode("a woman")[0][1]["pooled_output"]).all()


def check_the_class_word_is_found_wherever_it_stands():
    clip = world()[CLIP]
    for prompt in [*PROMPTS, "a knight, unheard of, and a robot"]:
        word = "knight" if "knight" in prompt else "woman"
        for occurrence, span in enumerate(find_word(word, prompt)):
            position = word_end_position(clip, prompt, span, "frame 1")
            flat = [entry for window in clip.tokenize(prompt)["l"] for entry in window]
            ids = [clip.tokenizer.clip_l.inv_vocab[token] for token, _ in flat]
            wanted = "<|unknown|>" if word == "knight" else word
            assert position == [i for i, piece in enumerate(ids) if piece == wanted][occurrence], prompt


def check_only_the_class_words_token_takes_the_identity():
    loaded = world()
    for frame in story("Mira waving and Tom on a beach", PROMPTS[5]).frames:
        [[plain, _]] = encode(frame.prompt)
        [[fused, _]] = IdentityConditioningNode.execute(loaded[CLIP], loaded[PHOTOMAKER], identity(), frame).result[0]
        changed = (plain != fused).any(dim=-1)[0].nonzero().flatten().tolist()
        assert changed == [word_end_position(loaded[CLIP], frame.prompt, frame.span_of("Mira"), "")]


def check_identities_and_encoders_of_another_world_are_refused():
    loaded, frame = world(), story("Mira waving").frames[0]

    def condition(whose, clip=None):
        return IdentityConditioningNode.execute(clip or loaded[CLIP], loaded[PHOTOMAKER], whose, frame)

    refused(lambda: condition(identity(encoder="photomaker-v1", width=2048)), '"photomaker-v1"', f'"{TOY_WORLD.name}"')
    refused(
        lambda: condition(identity(), setting.stand_in_sdxl()[1]), "frame 1", f"{TOY_WORLD.text_width} wide", "2048"
    )
    sdxl, sd15 = setting.stand_in_sdxl()[0], setting.tiny_sd15()
    _, lora = toyworld.split_file(load_weights("photomaker"), "")
    width = TOY_WORLD.text_width
    refused(lambda: pm.apply_lora(sdxl, lora, 1.0, "toy", width), '"toy"', f"{width} wide;", "model reads 2048")
    refused(lambda: pm.apply_lora(sd15, lora, 1.0, "toy", width), "SD15 model reads 768", "its own model")
    refused(
        lambda: pm.apply_lora(loaded[MODEL], lora, 1.0, "big", 2048), f"ToyWorld model reads {width}", "SDXL checkpoint"
    )


def check_pictures_reach_the_encoder_as_they_do_without_the_host():
    images = torch.cat([pictures(3), 1.2 * pictures(1) - 0.1])
    assert_close(comfy.clip_model.clip_preprocess(images, size=64), look_at(images, 64))
    large = torch.rand(2, 90, 70, 3, generator=torch.Generator().manual_seed(1))
    assert_close(comfy.clip_model.clip_preprocess(large, size=64), look_at(large, 64))


def check_previews_resemble_the_picture():
    loaded = world()
    drawn = torch.stack([torch.tensor(sample_scene(seed, held_out=True).image) for seed in range(8)]).float() / 255
    (latents,) = nodes.VAEEncode().encode(loaded[VAE], drawn)
    latent_preview.set_preview_method("latent2rgb")
    try:
        previewer = latent_preview.get_previewer(torch.device("cpu"), loaded[MODEL].get_model_object("latent_format"))
        shown = [previewer.decode_latent_to_preview(each[None]) for each in latents["samples"]]
    finally:
        latent_preview.set_preview_method("default")
    assert all(image.size == (16, 16) for image in shown)
    seen = torch.stack([torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8) for image in shown]) / 255
    small = torch.nn.functional.avg_pool2d(drawn.movedim(-1, 1), TOY_WORLD.latent_ratio).movedim(1, -1)
    assert (seen.reshape(small.shape) - small).abs().mean() < 0.03


def check_faces_of_portraits_go_into_a_story():
    """Without a download: a portrait's head is found, seen, and changes the frames its owner is in, not the others."""
    loaded, told = world(), story("Mira waving", "a city at night")
    random = np.random.default_rng(1)
    plan = portrait_plan(sample_person(random, word="woman", hair="red"))
    portraits = torch.stack([torch.tensor(draw_scene(plan, random).image).float() / 255 for _ in range(2)])
    given = {"images": [portraits], "name": ["Mira"], "clip_vision": [loaded[CLIP_VISION]]}
    (faces,) = FaceFeaturesNode.execute(**given, face_models=["toy world"], crop=["found face"]).result
    assert faces[0].features.face.shape == (2, 64)
    assert faces[0].features.clip.shape[:2] == (2, 65)
    empty = [torch.tensor(sample_scene(0, people=0).image).float()[None] / 255]
    nobody = {**given, "images": empty, "face_models": ["toy world"], "crop": ["found face"]}
    refused(lambda: FaceFeaturesNode.execute(**nobody), "no face in picture 1 of 1", "the toy world's know its people")
    lists = {"model": [loaded[MODEL]], "adapter": [loaded[ADAPTER]], "faces": [faces], "story": [told]}
    lists |= {"mode": ["shuffled"], "seed": [1], "weight": [1.0], "start_percent": [0.0], "end_percent": [1.0]}
    ((injected,),) = ShuffledIDInjectorNode.execute(**lists, picture_weight=[1.0], lora_strength=[1.0]).result
    positive, negative, frames = EncodeStoryNode.execute(loaded[CLIP], told).result
    (latent,) = nodes.EmptyLatentImage().generate(SIDE, SIDE, frames)
    with_faces, plain = (
        nodes.KSampler().sample(model, 1, 4, 4.0, "euler", "simple", positive, negative, latent)[0]["samples"]
        for model in (injected, loaded[MODEL])
    )
    assert_close(with_faces[1], plain[1])
    assert largest_difference(with_faces[0], plain[0]) > 1e-2


def check_the_loader_gives_the_transformer_which_reads_portraits():
    loaded = ToyWorldLoaderNode.execute(model="transformer").result
    assert loaded[MODEL] is loaded[1]
    assert type(loaded[MODEL].model).__name__ == "Flux"
    (text,), (negative,) = (nodes.CLIPTextEncode().encode(loaded[CLIP], words) for words in ("a woman waves", ""))
    portrait = nodes.VAEEncode().encode(loaded[VAE], pictures(1))[0]["samples"]
    (latent,) = nodes.EmptyLatentImage().generate(SIDE, SIDE)
    plain, seen = (
        nodes.KSampler().sample(loaded[MODEL], 1, 3, 3.0, "euler", "simple", positive, negative, latent)[0]["samples"]
        for positive in (text, with_references(text, [portrait], "the model's own"))
    )
    assert largest_difference(plain, seen) > 1e-2
    assert nodes.VAEDecode().decode(loaded[VAE], {"samples": seen})[0].shape == (1, SIDE, SIDE, 3)
    assert {"transformer.safetensors", "unet.safetensors"} <= {path.name for path in ToyWorldLoaderNode.weight_files()}


def check_a_missing_file_is_named():
    empty = Path(folder_paths.get_temp_directory()) / "no weights"
    loaders = (toyworld.load_model, toyworld.load_vae, toyworld.load_clip, toyworld.load_detector)
    for load in (*loaders, toyworld.load_clip_vision, toyworld.load_adapter):
        refused(lambda load=load: load(empty), "missing", "no weights")


def check_a_story_runs_from_words_to_pictures():
    loaded = world()
    told = story("Mira waving and Tom on a beach", "a city at night")
    portraits, name, description = CharacterPortraitsNode.execute(
        *(loaded[which] for which in (MODEL, CLIP, VAE)),
        told,
        "Mira",
        8,
        "a close-up photo of {character}",
        "",
        batch_size=8,
        seed=1,
        steps=8,
        cfg=4.0,
        sampler_name="euler",
        scheduler="simple",
        width=SIDE,
        height=SIDE,
    ).result
    assert portraits.shape == (8, SIDE, SIDE, 3)
    found, kept, *_ = IdentityDiscoveryNode.execute(
        portraits, loaded[PHOTOMAKER], name, description, 2, 0.6, 2, "error"
    ).result
    assert (found.encoder, found.embedding.shape, len(kept)) == (TOY_WORLD.name, (TOY_WORLD.text_width,), 2)
    frame = told.frames[0]
    latent, cache = template(frame)
    (picture,) = nodes.VAEDecode().decode(loaded[VAE], latent)
    layout, _, preview = GroundedSAMLayoutNode.execute(
        picture, loaded[DETECTOR], 0.0, 0.0, 1, "skip", frame=frame
    ).result
    assert layout.names == ("Mira", "Tom")
    assert preview.shape == picture.shape
    masks = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    masks[0, 40:120, 16:48] = True
    only_masked_cells_change(frame, cache, latent, Layout(layout.names, masks, frame.label), found)
    nobody = told.frames[1]
    latent, cache = template(nobody)
    assert torch.equal(redenoised(nobody, cache, Layout((), masks[:0], nobody.label), found), latent["samples"])


def template(frame):
    (empty,) = nodes.EmptyLatentImage().generate(SIDE, SIDE, 1)
    prompts = {"positive": encode(frame.prompt), "negative": encode(frame.negative), "latent_image": empty}
    settings = {"sampler_name": "euler", "scheduler": "simple", "denoise": 1.0, "precision": "float32"}
    return NoisyLatentCacheNode.execute(
        world()[MODEL], **prompts, seed=4, steps=8, cfg=4.0, keep_from_step=2, **settings
    ).result


def redenoised(frame, cache, layout, found, start=2):
    loaded, cast = world(), ()
    for who in (found, identity("Tom")):
        (positive,) = IdentityConditioningNode.execute(loaded[CLIP], loaded[PHOTOMAKER], who, frame).result
        (cast,) = CastNode.execute(who, positive, encode(""), cast).result
    return RedenoiseNode.execute(loaded[IDENTITY_MODEL], cast, cache, layout, start, 50, 4.0, "hard").result[0][
        "samples"
    ]


def only_masked_cells_change(frame, cache, latent, layout, found):
    """What `layout` leaves out of a frame stays bit for bit, what it has changes."""
    final = redenoised(frame, cache, layout, found)
    schedule = ProgressiveMasks(layout.masks[:1], cache.steps, 2, 50 * SIDE / 1024)
    changed = to_latent_grid(schedule.at(cache.steps - 1), 16, 16).any(dim=0)[0]
    assert torch.equal(final[..., ~changed], latent["samples"][..., ~changed])
    assert (final - latent["samples"])[..., changed].abs().max() > 1e-2
    assert torch.equal(final, redenoised(frame, cache, layout, found))
    assert not world()[MODEL].patches
