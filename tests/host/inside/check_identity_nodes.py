"""PhotoMaker, the class word's place in a prompt, and the identity nodes, on the host's own classes."""

import os
from pathlib import Path

import comfy.clip_model
import comfy.utils
import comfy_extras.nodes_photomaker as stock
import folder_paths
import setting
import torch
from setting import refused
from story_identity.core.character_mentions import find_word
from story_identity.core.identity import Identity, discover_identity
from story_identity.core.story import Story
from story_identity.nodes.host import photomaker as pm
from story_identity.nodes.host.folders import register_folders
from story_identity.nodes.host.portraits import sample_portraits
from story_identity.nodes.host.prompt import word_end_position
from story_identity.nodes.identity import (
    CharacterPortraitsNode,
    IdentityConditioningNode,
    IdentityDiscoveryNode,
    PhotoMakerLoaderNode,
)
from story_identity.nodes.identity_files import LoadIdentityNode, SaveIdentityNode

from tests.closeness import assert_close, largest_difference

NAME = "photomaker-v1.bin"


def weights():
    return pm.load_weights(folder_paths.get_full_path_or_raise("photomaker", NAME), NAME)


def pictures(count, seed=0, side=40):
    return torch.rand(count, side, side, 3, generator=torch.Generator().manual_seed(seed))


def story(*frames):
    people = [
        {"name": "Mira", "word": "woman", "description": "a young woman with short red hair"},
        {"name": "Ben", "word": "man", "description": "an old man in a raincoat"},
    ]
    return Story.parse({"characters": people, "frames": list(frames)})


def identity(name="Mira", encoder="photomaker-v1", width=2048):
    return Identity(name, "", encoder, torch.randn(width, generator=torch.Generator().manual_seed(9)))


def stock_encoder(encoder_weights):
    """The stock PhotoMaker class, told the stand-in's sizes while it is built."""
    sizes = stock.VISION_CONFIG_DICT
    stock.VISION_CONFIG_DICT = {**sizes, **pm.vision_config(encoder_weights)}
    try:
        encoder = stock.PhotoMakerIDEncoder()
    finally:
        stock.VISION_CONFIG_DICT = sizes
    second = encoder_weights["visual_projection_2.weight"]  # the stock class has the real width written into it
    encoder.visual_projection_2 = torch.nn.Linear(second.shape[1], second.shape[0], bias=False)
    encoder.load_state_dict(encoder_weights)
    return encoder


def check_the_encoder_computes_what_the_stock_one_does():
    encoder_weights, _ = weights()
    ours, theirs = pm.PhotoMakerEncoder(encoder_weights), stock_encoder(encoder_weights)
    pixels = comfy.clip_model.clip_preprocess(pictures(1)).float()
    text = torch.randn(1, 77, 2048, generator=torch.Generator().manual_seed(4))
    mask = torch.zeros(1, 77, dtype=torch.bool)
    mask[0, 5] = True
    a, b = (e(id_pixel_values=pixels[None], prompt_embeds=text.clone(), class_tokens_mask=mask) for e in (ours, theirs))
    assert torch.equal(a, b)
    assert not torch.equal(a, text)
    direct = pm.fuse_identity(ours, text, pm.embed_portraits(ours, pictures(1), 8, lambda _: None)[0], 5)
    assert_close(direct, a)


def check_portraits_are_embedded_the_same_in_any_sub_batch_and_by_the_stock_loaders_encoder():
    encoder_weights, _ = weights()
    ours, theirs = pm.PhotoMakerEncoder(encoder_weights), stock_encoder(encoder_weights)
    images, steps = pictures(7), []
    whole = pm.embed_portraits(ours, images, 8, steps.append)
    parts = pm.embed_portraits(ours, images, 3, steps.append)
    assert whole.shape == (7, 2048)
    assert steps == [7, 3, 3, 1]
    assert_close(whole, parts, 1e-4)
    assert_close(whole, pm.embed_portraits(theirs, images, 8, steps.append))
    assert pm.encoder_id(theirs) == pm.encoder_id(ours) == "photomaker-v1"


def check_the_lora_goes_on_a_clone_and_every_weight_of_it_fits():
    model, _, _ = setting.stand_in_sdxl()
    _, lora = weights()
    patched, _ = PhotoMakerLoaderNode.execute(model, NAME, 0.8).result
    assert not model.patches
    assert len(patched.patches) == len(lora) // 2
    assert all(entries[0][0] == 0.8 for entries in patched.patches.values())
    refused(lambda: PhotoMakerLoaderNode.execute(setting.tiny_sd15(), NAME, 1.0), "SD15", "SDXL", "768", "2048")
    foreign = {"unet.nothing.lora_up.weight": torch.ones(1, 4), "unet.nothing.lora_down.weight": torch.ones(4, 1)}
    refused(lambda: pm.apply_lora(model, foreign, 1.0, NAME, 2048), "fits none", NAME)
    for key in sorted(lora)[::9]:
        rest = {each: value for each, value in lora.items() if each != key}
        layer = key.removeprefix("unet.").partition(".processor")[0]
        for changed in (rest, {**rest, f"{key}x": lora[key]}, {**rest, key: lora[key][:-1]}):
            refused(lambda changed=changed: pm.apply_lora(model, changed, 1.0, NAME, 2048), NAME, layer)
    layer = sorted(lora)[0].partition("_lora")[0]
    without = {key: value for key, value in lora.items() if not key.startswith(layer)}
    refused(lambda: pm.apply_lora(model, without, 1.0, NAME, 2048), NAME, "Missing")
    assert not model.patches


def check_damaged_files_are_named_with_what_they_are():
    folder = Path(folder_paths.get_folder_paths("photomaker")[0])
    whole = (folder / NAME).read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 934\n"
    for name, content, found in (
        ("damaged.safetensors", pointer, "Git LFS pointer"),
        ("damaged.safetensors", b"", "it is empty"),
        ("damaged.safetensors", whole, "a PyTorch file under another ending"),
        ("damaged.bin", pointer, "Git LFS pointer"),
        ("damaged.bin", whole[:-400], "it is cut off"),
    ):
        (folder / name).write_bytes(content)
        refused(lambda name=name: pm.load_weights(str(folder / name), name), f"{name} cannot be read as weights", found)
    encoder, lora = weights()
    for content, found in (
        ([encoder, lora], "it holds a list, not tensors by name"),
        ({"id_encoder": encoder}, "not both id_encoder and lora_weights"),
        ({"id_encoder": {**encoder, "x.weight": torch.ones(1)}, "lora_weights": lora}, 'Not part of it: "x.weight"'),
        ({"id_encoder": dict(list(encoder.items())[1:]), "lora_weights": lora}, "damaged.bin"),
    ):
        torch.save(content, folder / "damaged.bin")
        refused(lambda: pm.load_weights(str(folder / "damaged.bin"), "damaged.bin"), "damaged.bin", found)
    ids = {"vision_model.embeddings.position_ids": torch.arange(257)[None]}
    torch.save({"id_encoder": {**encoder, **ids}, "lora_weights": lora}, folder / "damaged.bin")
    assert pm.load_weights(str(folder / "damaged.bin"), "damaged.bin")[0].keys() == encoder.keys()


def check_files_that_are_not_photomaker_are_refused():
    encoder_weights, lora = weights()
    v2_encoder = {**encoder_weights, "qformer_perceiver.token_proj.0.weight": torch.ones(1)}
    second = {"id_encoder": v2_encoder, "lora_weights": lora}
    for data, words in (
        (second, ("other.bin", "qformer_perceiver.token_proj.0.weight", "expected 2 axes")),
        ({"id_encoder": encoder_weights, "other": torch.ones(1)}, ("not a PhotoMaker file", "lora_weights")),
        ({"weight": torch.ones(1), "bias": torch.ones(1)}, ("not a PhotoMaker file", "bias")),
    ):
        path = folder_paths.get_folder_paths("photomaker")[0] + "/other.bin"
        torch.save(data, path)
        refused(lambda path=path: pm.load_weights(path, "other.bin"), *words)
    page = folder_paths.get_folder_paths("photomaker")[0] + "/page.bin"
    with open(page, "w") as file:
        file.write("<html>not found</html>")
    refused(lambda: pm.load_weights(page, "page.bin"), "page.bin cannot be read as weights", "web page", "v1.bin")
    missing = PhotoMakerLoaderNode.validate_inputs("gone.bin")
    assert "gone.bin" in missing
    assert "photomaker" in missing


PROMPTS = [
    "a woman",
    "photo of a woman, smiling; the (woman:1.3) waves",
    "an (old (woman:1.2)), close up",
    "Woman. Another WOMAN's hat",
    "extraordinarily long-winded antidisestablishmentarianism, a woman in Kraków, 35mm",
    ", ".join(f"a red house number {i}" for i in range(30)) + ", a woman at the very end",
    ", ".join(f"a red house number {i} with a woman" for i in range(30)),
    "a womanly girl, a superwoman and a woman",
    "a \\(brave\\) woman",
]


def check_the_class_word_is_found_wherever_it_stands():
    _, clip, _ = setting.stand_in_sdxl()
    for prompt in PROMPTS:
        for occurrence, span in enumerate(find_word("woman", prompt)):
            position = word_end_position(clip, prompt, span, "frame 1")
            windows = clip.tokenize(prompt)["g"]
            flat = [entry for window in windows for entry in window]
            pieces = [clip.tokenizer.clip_g.inv_vocab[token] for token, _ in flat]
            assert pieces[position] == "woman</w>", (prompt, pieces[position])
            whole = [
                i for i, piece in enumerate(pieces) if piece == "woman</w>" and pieces[i - 1].endswith(("</w>", "|>"))
            ]
            assert whole.index(position) == occurrence, prompt


def check_a_word_of_several_tokens_is_found_at_its_last_one():
    _, clip, _ = setting.stand_in_sdxl()
    prompt = "a photo of a zorblaxian, the zorblaxian waves"
    for occurrence, span in enumerate(find_word("zorblaxian", prompt)):
        position = word_end_position(clip, prompt, span, "frame 1")
        before = prompt[: span[1]]
        assert position == sum(1 for _, _, word in clip.tokenize(before, return_word_ids=True)["l"][0] if word), (
            occurrence
        )


def check_a_word_the_tokenizer_does_not_show_is_refused():
    _, clip, _ = setting.stand_in_sdxl()
    prompt = "embedding:woman and a man"
    place = (10, 15)  # where a file reference has it, which no story would ask for
    tokenizers = (clip.tokenizer.clip_l, clip.tokenizer.clip_g)
    for tokenizer in tokenizers:
        tokenizer.embedding_directory = [folder_paths.models_dir]
    try:
        refused(lambda: word_end_position(clip, prompt, place, "frame 4"), "frame 4", '"woman"', "word of its own")
    finally:
        for tokenizer in tokenizers:
            tokenizer.embedding_directory = None


def check_only_the_class_words_token_changes():
    _, clip, _ = setting.stand_in_sdxl()
    encoder = pm.PhotoMakerEncoder(weights()[0])
    for frame in story("Mira waits for Ben, rain", PROMPTS[5]).frames:
        [[plain, _]] = clip.encode_from_tokens_scheduled(clip.tokenize(frame.prompt))
        [[fused, extras]] = IdentityConditioningNode.execute(clip, encoder, identity(), frame).result[0]
        changed = (plain != fused).any(dim=-1)[0].nonzero().flatten().tolist()
        assert changed == [word_end_position(clip, frame.prompt, frame.span_of("Mira"), "")]
        assert "pooled_output" in extras
    assert fused.shape[1] > 77


def check_the_description_alone_is_encoded_if_it_is_to_be():
    _, clip, _ = setting.stand_in_sdxl()
    encoder = pm.PhotoMakerEncoder(weights()[0])
    people = [{"name": "Mira", "word": "woman", "description": "a young woman with short red hair"}]
    styled = Story.parse({"characters": people, "style": "watercolor", "frames": ["the woman waits in the rain"]})
    for told, description in ((story("Mira waits for Ben"), ""), (styled, "watercolor, ")):
        given = (clip, encoder, identity(), told.frames[0])
        [[found, _]] = IdentityConditioningNode.execute(*given, prompt="character").result[0]
        text = f"{description}a young woman with short red hair"
        [[expected, _]] = IdentityConditioningNode.execute(*given[:3], None, text, "woman").result[0]
        assert torch.equal(found, expected)
        [[by_frame, _]] = IdentityConditioningNode.execute(*given, prompt="frame").result[0]
        assert torch.equal(by_frame, IdentityConditioningNode.execute(*given).result[0][0][0])
        assert not torch.equal(found, by_frame)
    absent = story("Ben waits").frames[0]
    assert IdentityConditioningNode.execute(*given[:3], absent, prompt="character").result[0] == []


def check_conditioning_without_a_frame_needs_the_word():
    _, clip, _ = setting.stand_in_sdxl()
    encoder = pm.PhotoMakerEncoder(weights()[0])
    frame = story("a woman waits").frames[0]
    [[a, _]] = IdentityConditioningNode.execute(clip, encoder, identity(), frame).result[0]
    [[b, _]] = IdentityConditioningNode.execute(clip, encoder, identity(), None, "a woman waits", "woman").result[0]
    assert torch.equal(a, b)
    for word in ("girl", ""):
        refused(
            lambda word=word: IdentityConditioningNode.execute(clip, encoder, identity(), None, "a woman waits", word),
            "class word",
            "a woman waits",
        )


def check_absent_characters_get_an_empty_conditioning():
    _, clip, _ = setting.stand_in_sdxl()
    encoder = pm.PhotoMakerEncoder(weights()[0])
    frame = story("Ben waits").frames[0]
    assert IdentityConditioningNode.execute(clip, encoder, identity(), frame).result[0] == []


def check_wrong_identities_are_refused():
    _, clip, _ = setting.stand_in_sdxl()
    encoder = pm.PhotoMakerEncoder(weights()[0])
    frame = story("Mira waits").frames[0]
    stranger = identity("Bob")
    refused(
        lambda: IdentityConditioningNode.execute(clip, encoder, stranger, frame), "frame 1", '"Bob"', '"Mira", "Ben"'
    )
    other, narrow = identity(encoder="toy"), identity(width=512)
    refused(lambda: IdentityConditioningNode.execute(clip, encoder, other, frame), '"toy"', '"photomaker-v1"')
    refused(lambda: IdentityConditioningNode.execute(clip, encoder, narrow, frame), "frame 1", "512", "2048")


def check_the_same_conditioning_twice():
    _, clip, _ = setting.stand_in_sdxl()
    encoder = pm.PhotoMakerEncoder(weights()[0])
    frames = story("Mira waits", "Mira runs").frames
    a, _, again = (
        IdentityConditioningNode.execute(clip, encoder, identity(), frames[index]).result[0][0][0]
        for index in (0, 1, 0)
    )
    assert torch.equal(a, again)


def check_portraits_do_not_depend_on_the_sub_batch():
    model, _, vae = setting.stand_in_sdxl()
    positive, negative = setting.conditioning(setting.tiny_sdxl(), 1), setting.conditioning(setting.tiny_sdxl(), 2)
    common = {"count": 5, "seed": 3, "steps": 2, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal"}
    whole, parts = (
        sample_portraits(model, vae, positive, negative, batch_size=size, width=64, height=96, **common)
        for size in (5, 2)
    )
    assert whole.shape == (5, 96, 64, 3)
    assert_close(whole, parts, 2e-2)
    assert largest_difference(whole[0], whole[1]) > 2e-2


def check_portraits_say_whom_they_show():
    model, clip, vae = setting.stand_in_sdxl()
    common = dict(seed=3, steps=1, cfg=5.0, sampler_name="euler", scheduler="normal", width=64, height=64)
    people = story("Mira waits for Ben")

    def draw(character, template="a photo of {character}"):
        return CharacterPortraitsNode.execute(
            model, clip, vae, people, character, 2, template, "", batch_size=2, **common
        )

    refused(lambda: draw(""), '"Mira", "Ben"')
    refused(lambda: draw("Bob"), '"Bob"')
    refused(lambda: draw("Ben", "a photo"), "a photo", "{character}")


def check_discovery_finds_what_core_finds_and_reports_it():
    encoder = pm.PhotoMakerEncoder(weights()[0])
    images = pictures(24)

    def node(**more):
        settings = {"portraits": images, "photomaker": encoder, "name": "Mira", "description": "a woman", "rank": 5}
        settings |= {"keep_ratio": 0.6, "iterations": 3, "rank_too_large": "error", **more}
        return IdentityDiscoveryNode.execute(**settings).result

    found, kept, report, best = node()
    expected = discover_identity(pm.embed_portraits(encoder, images, 8, lambda _: None), 5)
    assert torch.equal(found.embedding, expected.embedding)
    assert torch.equal(kept, images[expected.kept])
    assert "24 → 14 → 8 → 4 portraits, rank 5" in report
    assert report.endswith("kept " + ", ".join(str(index + 1) for index in expected.kept))
    assert [len(each["errors"]) for each in found.metadata["discovery"]["rounds"]] == [24, 14, 8]
    assert (found.name, found.encoder, found.metadata["discovery"]["rank"]) == ("Mira", "photomaker-v1", 5)
    refused(lambda: node(rank=10), "rank 10 is too large for 24 portraits", "largest usable rank is 7")
    assert "rank 7 (asked: 10)" in node(rank=10, rank_too_large="lower it")[2]
    assert "only 1 left" in node(portraits=images[:8], rank=1, keep_ratio=0.5)[2]
    assert "left" not in report
    refused(lambda: node(portraits=images[:2]), "2 portraits")
    refused(lambda: node(name=" "), "needs the character's name")


def check_identities_are_saved_numbered_and_loaded():
    register_folders()
    SaveIdentityNode.execute(identity("Zoë"), "", False)
    _, second = SaveIdentityNode.execute(identity("Zoë"), "", False).result
    assert second.endswith("Zoë_2.safetensors")
    _, again = SaveIdentityNode.execute(identity("Zoë"), "", True).result
    assert again.endswith("Zoë.safetensors")
    loaded, info, _ = LoadIdentityNode.execute("Zoë_2.safetensors", "").result
    assert torch.equal(loaded.embedding, identity("Zoë").embedding)
    assert loaded.name == "Zoë"
    assert "photomaker-v1" in info
    assert LoadIdentityNode.execute("Zoë.safetensors", "Mira").result[0].name == "Mira"
    assert "nobody.safetensors" in LoadIdentityNode.validate_inputs("nobody.safetensors")
    refused(lambda: SaveIdentityNode.execute(identity(), "../..", False), "no usable file name")


def check_file_names_are_checked_before_anything_runs():
    register_folders()
    assert SaveIdentityNode.validate_inputs(None) is SaveIdentityNode.validate_inputs("") is True
    assert SaveIdentityNode.validate_inputs("Mira") is SaveIdentityNode.validate_inputs("🦊") is True
    for name in ("\ud800", "a\udc00"):
        said = SaveIdentityNode.validate_inputs(name)
        assert "half of a surrogate pair" in said
        said.encode()
        refused(lambda name=name: SaveIdentityNode.execute(identity(), name, False), "half of a surrogate pair")
    assert "no usable file name" in SaveIdentityNode.validate_inputs("...")
    _, path = SaveIdentityNode.execute(identity("🦊"), "", False).result
    assert path.endswith("U+1F98A.safetensors")
    assert LoadIdentityNode.execute("U+1F98A.safetensors", "").result[0].name == "🦊"


def check_portraits_of_a_name_without_a_file_name_are_not_drawn():
    model, clip, vae = setting.stand_in_sdxl()
    told = Story.parse({
        "characters": [{"name": "?!", "word": "woman", "description": "a young woman"}],
        "frames": ["a woman walks"],
    })  # fmt: skip
    with setting.counted(model) as count:
        refused(
            lambda: CharacterPortraitsNode.execute(
                model, clip, vae, told, "", 1, "a photo of {character}", "", batch_size=1, seed=0, steps=1, cfg=1.0,
                sampler_name="euler", scheduler="normal", width=64, height=64,
            ),
            '"?!" leaves no usable file name',
        )  # fmt: skip
    assert count.calls == 0
    encoder = pm.PhotoMakerEncoder(weights()[0])
    refused(
        lambda: IdentityDiscoveryNode.execute(pictures(24), encoder, "\ud83e", "", 5, 0.6, 3, "error"), "surrogate pair"
    )


def check_an_identity_is_read_again_when_its_content_changed_and_only_then():
    register_folders()
    _, path = SaveIdentityNode.execute(identity("Ada"), "", True).result
    times = os.stat(path)
    first = LoadIdentityNode.fingerprint_inputs("Ada.safetensors", rename="")
    os.utime(path)
    assert LoadIdentityNode.fingerprint_inputs("Ada.safetensors", rename="x") == first
    SaveIdentityNode.execute(identity("Ada", encoder="photomaker-v2"), "", True)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert LoadIdentityNode.fingerprint_inputs("Ada.safetensors", rename="") != first
    linked = LoadIdentityNode.fingerprint_inputs(rename="")
    assert linked != linked  # NaN: a name that comes through a link is not known yet
    LoadIdentityNode.validate_inputs("\ud800").encode()
