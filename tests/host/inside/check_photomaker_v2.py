"""PhotoMaker v2 in the nodes: the loader, the discovery in its embeddings, two tokens in a prompt, and both passes."""

from functools import cache
from pathlib import Path
from types import SimpleNamespace

import comfy.clip_model
import folder_paths
import setting
import torch
from setting import refused
from story_identity.core.detectors.faces import Face
from story_identity.core.identity import Identity, discover_identity
from story_identity.core.layout import Layout
from story_identity.core.photomaker import FuseModule, IdentityPerceiver, perceiver_config, vision_config
from story_identity.core.story import Story
from story_identity.nodes.host import photomaker as pm
from story_identity.nodes.identity import IdentityConditioningNode, IdentityDiscoveryNode, PhotoMakerLoaderNode
from story_identity.nodes.sampling import CastNode, NoisyLatentCacheNode, RedenoiseNode
from transformers import CLIPVisionConfig, CLIPVisionModel

from tests.closeness import assert_close, largest_difference
from tests.stand_ins.photomaker import FACE, id_encoder_weights_v2, write_photomaker_v2

NAME, FIRST = "photomaker-v2.bin", "photomaker-v1.bin"
WIDTH, TOKENS = 2048, 2


class Insightface:
    """Sees a face in every picture that is not white; its embeddings are of any length, as insightface's are."""

    def __init__(self, width=FACE, name="insightface", length=20.0):
        self.width, self.name, self.length = width, name, length

    def find(self, image):
        if image.min() == 1:
            return None
        rows = image.mean(dim=(0, 1)) @ torch.randn(3, self.width, generator=torch.Generator().manual_seed(1))
        return Face(torch.nn.functional.normalize(rows, dim=0), image, self.length)

    def find_all(self, images, masks):
        return [self.find(image) for image in images]


def pictures(count, seed=0, side=40):
    return torch.rand(count, side, side, 3, generator=torch.Generator().manual_seed(seed))


@cache
def narrow():
    """The weights of a small encoder, for prompts 40 wide."""
    return {key: value.float() for key, value in id_encoder_weights_v2(40, heads=2, depth=2).items()}


@cache
def loaded():
    """What PhotoMaker Loader gives of a file for SDXL, with a recogniser."""
    path = Path(folder_paths.get_folder_paths("photomaker")[0]) / NAME
    write_photomaker_v2(path)
    model, _, _ = setting.stand_in_sdxl()
    return PhotoMakerLoaderNode.execute(model, NAME, 1.0, Insightface()).result


def identity(name="Mira", encoder="photomaker-v2", width=TOKENS * WIDTH):
    return Identity(name, "", encoder, torch.randn(width, generator=torch.Generator().manual_seed(9)))


def story(*frames):
    people = [{"name": "Mira", "word": "woman", "description": "a young woman with short red hair"}]
    return Story.parse({"characters": people, "frames": list(frames)})


def discover(encoder, portraits, **more):
    settings = {"name": "Mira", "description": "a woman", "rank": 2, "keep_ratio": 0.6, "iterations": 2}
    settings |= {"rank_too_large": "error", **more}
    return IdentityDiscoveryNode.execute(portraits, encoder, **settings).result


def check_the_loader_takes_both_versions_and_puts_the_lora_on_a_clone():
    patched, photomaker = loaded()
    model, _, _ = setting.stand_in_sdxl()
    _, lora = pm.load_weights(folder_paths.get_full_path_or_raise("photomaker", NAME), NAME)
    assert not model.patches
    assert len(patched.patches) == len(lora) // 2
    assert pm.encoder_id(photomaker) == photomaker.encoder_id == "photomaker-v2"
    assert pm.identity_tokens(photomaker) == TOKENS
    _, first = PhotoMakerLoaderNode.execute(model, FIRST, 1.0, Insightface(128, "dlib")).result
    assert pm.encoder_id(first) == "photomaker-v1"
    assert pm.identity_tokens(first) == 1


def check_other_face_recognisers_are_refused_with_the_one_to_choose():
    loaded()
    model, _, _ = setting.stand_in_sdxl()
    for width, name in ((128, "dlib"), (128, "sface"), (512, "auraface")):
        recogniser = Insightface(width, name)
        refused(
            lambda recogniser=recogniser: PhotoMakerLoaderNode.execute(model, NAME, 1.0, recogniser),
            NAME,
            f'"{name}"',
            "Choose insightface in Load Face Recogniser",
            *(["512 numbers", "gives 128"] if width == 128 else ["mean something else"]),
        )


def check_the_embedding_is_the_perceivers_of_the_last_hidden_states_and_the_face():
    """Against transformers' CLIP and the network in plain torch."""
    weights = narrow()
    ours, tower = pm.PhotoMakerEncoder(weights), CLIPVisionModel(CLIPVisionConfig(**vision_config(weights))).eval()
    root = "" if any(key.startswith("vision_model.") for key in tower.state_dict()) else "vision_model."
    held = {key.removeprefix(root): value for key, value in weights.items() if key.startswith("vision_model.")}
    tower.load_state_dict(held)
    network = IdentityPerceiver(perceiver_config(weights))
    prefix = "qformer_perceiver."
    network.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
    images, faces, steps = pictures(5), 20 * torch.randn(5, FACE, generator=torch.Generator().manual_seed(3)), []
    hidden = tower(comfy.clip_model.clip_preprocess(images, size=224).float()).last_hidden_state
    expected = network(faces, hidden).flatten(1)
    found = pm.embed_portraits(ours, images, 8, steps.append, faces)
    assert found.shape == (5, TOKENS * 40)
    assert_close(found, expected, 1e-4)
    assert_close(pm.embed_portraits(ours, images, 2, steps.append, faces), expected, 1e-4)
    assert steps == [5, 2, 2, 1]
    assert largest_difference(pm.embed_portraits(ours, images, 8, steps.append, faces / 20), expected) > 1e-3


def check_discovery_filters_the_identity_tokens_and_leaves_out_portraits_without_a_face():
    recogniser = Insightface()
    encoder = pm.PhotoMakerEncoder(narrow(), recogniser=recogniser)
    faced = pictures(20)
    portraits = torch.cat([faced[:9], torch.ones(1, 40, 40, 3), faced[9:]])
    found, kept, report, best = discover(encoder, portraits, representatives=3)
    unscaled = torch.stack([20 * recogniser.find(picture).embedding for picture in faced])
    rows = pm.embed_portraits(encoder, faced, 20, lambda _: None, unscaled)
    expected = discover_identity(rows, 2, 0.6, 2)
    assert_close(found.embedding, expected.embedding, 1e-4)
    assert torch.equal(kept, faced[expected.kept])
    assert "no face was found in: 10\n" in report
    assert found.encoder == "photomaker-v2"
    assert found.embedding.shape == (TOKENS * 40,)
    assert found.metadata["face_recogniser"] == "insightface"
    assert len(best) == len(found.portraits) == 3
    assert torch.equal(discover(encoder, portraits)[0].embedding, found.embedding)


def check_discovery_without_a_recogniser_or_a_face_is_refused():
    without = pm.PhotoMakerEncoder(narrow())
    refused(lambda: discover(without, pictures(20)), "face embedding", "PhotoMaker Loader", "Choose insightface", "v1")
    encoder = pm.PhotoMakerEncoder(narrow(), recogniser=Insightface())
    refused(lambda: discover(encoder, torch.ones(3, 40, 40, 3)), '"insightface"', "none of the 3", "PhotoMaker v1")


def check_the_class_word_stands_twice_and_both_its_tokens_get_one_of_the_identity():
    _, photomaker = loaded()
    _, clip, _ = setting.stand_in_sdxl()
    who = identity()
    fuse = FuseModule(WIDTH)
    fuse.load_state_dict({k: v.float() for k, v in photomaker.fuse_module.state_dict().items()})
    long = ", ".join(f"a red house number {i}" for i in range(30))
    for before, word, after in (
        ("a photo of a ", "woman", ", smiling; another woman waits"),
        ("an (old (", "woman", ":1.2)), close up"),
        (f"{long}, a ", "woman", " at the very end"),
        ("", "Woman", ""),
    ):
        frame = story(f"{before}{word}{after}").frames[0]
        [[found, extras]] = IdentityConditioningNode.execute(clip, photomaker, who, frame).result[0]
        doubled = clip.tokenize(f"{before}{word} {word}{after}")
        [[plain, _]] = clip.encode_from_tokens_scheduled(doubled)
        changed = (plain != found).any(dim=-1)[0].nonzero().flatten().tolist()
        assert len(changed) == TOKENS, changed
        flat = [clip.tokenizer.clip_g.inv_vocab[token] for window in doubled["g"] for token, _ in window]
        assert [flat[position] for position in changed] == ["woman</w>"] * 2
        assert changed[0] == flat.index("woman</w>")
        expected = fuse.fuse_fn(plain[0, changed].float(), who.embedding.view(TOKENS, WIDTH))
        assert_close(found[0, changed], expected, 1e-4)
        assert "pooled_output" in extras
    assert found.shape[1] == 77
    absent = story("an empty beach").frames[0]
    assert IdentityConditioningNode.execute(clip, photomaker, who, absent).result[0] == []


def check_identities_of_the_other_version_are_refused_by_name():
    _, second = loaded()
    model, clip, _ = setting.stand_in_sdxl()
    first = SimpleNamespace(encoder_id="photomaker-v1")
    frame = story("a woman waits").frames[0]
    for photomaker, who in ((second, identity(encoder="photomaker-v1", width=WIDTH)), (first, identity())):
        refused(
            lambda photomaker=photomaker, who=who: IdentityConditioningNode.execute(clip, photomaker, who, frame),
            '"photomaker-v1"',
            '"photomaker-v2"',
            '"Mira"',
        )
    other = identity(width=WIDTH)
    refused(lambda: IdentityConditioningNode.execute(clip, second, other, frame), "2048", "2 tokens of 2048", "SDXL")
    call = {"id_pixel_values": torch.zeros(1, 1, 3, 224, 224), "prompt_embeds": torch.zeros(1, 77, WIDTH)}
    call["class_tokens_mask"] = torch.zeros(1, 77, dtype=torch.bool)
    refused(lambda: second(**call), "PhotoMaker Encode takes PhotoMaker v1", "Identity Conditioning")
    refused(lambda: PhotoMakerLoaderNode.execute(setting.tiny_sd15(), NAME, 1.0), NAME, "768", "2048", "SDXL")
    assert not model.patches


def check_both_passes_draw_the_identity_into_the_mask_and_nothing_else():
    patched, photomaker = loaded()
    model, clip, _ = setting.stand_in_sdxl()
    frame = story("a woman waits").frames[0]
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (frame.prompt, ""))
    latent, cache = NoisyLatentCacheNode.execute(
        model, positive, negative, setting.empty_latent(8, 8), 3, 3, 4.0, "euler", "normal", 1.0, 0, "float32"
    ).result
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, :, :24] = True

    def drawn(who):
        given = IdentityConditioningNode.execute(clip, photomaker, who, frame).result[0]
        (cast,) = CastNode.execute(who, given, negative).result
        layout = Layout(("Mira",), mask, frame.label)
        return RedenoiseNode.execute(patched, cast, cache, layout, 1, 0, 4.0, "hard").result[0]["samples"]

    one, again = drawn(identity()), drawn(identity())
    other = drawn(Identity("Mira", "", "photomaker-v2", identity().embedding.roll(1)))
    inside = torch.arange(8) < 3
    assert torch.equal(one, again)
    for result in (one, other):
        assert torch.equal(result[..., ~inside], latent["samples"][..., ~inside])
    assert largest_difference(one[..., inside], latent["samples"][..., inside]) > 1e-3
    assert largest_difference(one[..., inside], other[..., inside]) > 1e-4
