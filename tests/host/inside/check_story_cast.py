"""Story Cast against the chain of single nodes, Find Identity outside a workflow, and which values bear no names."""

import asyncio
import tempfile
from pathlib import Path

import folder_paths
import torch
from PIL import Image
from setting import counted, refused
from story_identity.core.identity import Identity
from story_identity.core.story import FRAME, PROMPTS, Story
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.nodes.characters import CharactersNode
from story_identity.nodes.extension import StoryIdentityExtension
from story_identity.nodes.find_identity import FindIdentityNode
from story_identity.nodes.host.folders import register_folders
from story_identity.nodes.host.loops import Graph
from story_identity.nodes.host.name_free import NameFree
from story_identity.nodes.host.picture_files import pictures_of_one_size
from story_identity.nodes.host.result_keys import key_of
from story_identity.nodes.identity import IdentityConditioningNode
from story_identity.nodes.identity_files import LoadIdentityNode
from story_identity.nodes.reference_conditioning import ReferenceConditioningNode
from story_identity.nodes.sampling import CastNode
from story_identity.nodes.story import TYPED_IN, StoryNode
from story_identity.nodes.story_cast import StoryCastNode
from story_identity.nodes.toyworld import ToyWorldLoaderNode

import nodes
from tests.closeness import assert_close

MODEL, CLIP, VAE, PHOTOMAKER = 0, 2, 3, 4
LINES = "Mira | woman | a woman with red hair\nPip | robot | a robot with a white lamp\nBen | boy | a boy"
TOLD = Story.from_lines(LINES, "Mira waving and Pip in the garden\na beach\nBen on the beach\nPip, Ben and Mira", "ink")
DRAWING = {"batch_size": 8, "seed": 1, "steps": 2, "cfg": 4.0, "sampler_name": "euler", "scheduler": "simple"}
FINDING = {"count": 8, "width": 64, "height": 64, "template": "a close-up photo of {character}", "negative": ""}
FINDING |= {**DRAWING, "rank": 2, "keep_ratio": 0.6, "iterations": 2, "representatives": 3, "reuse": "if it fits"}


def identity(name, seed, width=TOY_WORLD.text_width):
    generator = torch.Generator().manual_seed(seed)
    portraits = torch.randint(0, 256, (2, 64, 64, 3), generator=generator).byte()
    return Identity(name, "", TOY_WORLD.name, torch.randn(width, generator=generator), {}, portraits)


EVERYBODY = [identity("Ben", 1), identity("Somebody else", 2), identity("Pip", 3), identity("Mira", 4)]


def same(one, other):
    """Whether two values are equal bit for bit, whatever they are made of."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def as_parts(cast):
    return [(each.name, each.positive, each.negative, each.model) for each in cast]


def by_name(part):
    return part[0]


def negative_of(clip, text="dark"):
    return nodes.CLIPTextEncode().encode(clip, text)[0]


def chain(frame, negative, positive_of):
    cast = ()
    for who in EVERYBODY:
        if who.name == "Somebody else":  # the single nodes refuse who is not in the story
            continue
        (cast,) = CastNode.execute(who, positive_of(who), negative, cast, frame).result
    return cast


def check_it_equals_the_chain_of_single_nodes_bit_for_bit():
    """In any order of the identities; the chain gives a cast in the order of its nodes."""
    loaded = ToyWorldLoaderNode.execute().result
    clip, photomaker, vae = loaded[CLIP], loaded[PHOTOMAKER], loaded[VAE]
    negatives = [negative_of(clip, text) for text in ("dark", "bright", "grey", "")]
    references = {"portraits": 2, "megapixels": 0.02, "reference_method": "index", "text_encoder": "prompt only"}
    plain = negative_of(clip, "everybody")
    for prompt in PROMPTS:
        ways = (
            ({"photomaker": [photomaker]}, lambda who, frame, p=prompt: IdentityConditioningNode.execute(
                clip, photomaker, who, frame, prompt=p)[0]),
            ({"vae": [vae], **{k: [v] for k, v in references.items()}},
             lambda who, frame, p=prompt: ReferenceConditioningNode.execute(
                 clip, vae, who, frame=frame, prompt=p, **references)[0]),
            ({"positive": [plain]}, lambda who, frame: plain),
        )  # fmt: skip
        for way, positive_of in ways:
            (casts,) = StoryCastNode.execute(
                EVERYBODY, list(TOLD.frames), [clip], negatives, prompt=[prompt], **way
            ).result
            for cast, frame, negative in zip(casts, TOLD.frames, negatives, strict=True):
                chained = chain(frame, negative, lambda who, f=frame, of=positive_of: of(who, f))
                assert [each.name for each in cast] == [each.name for each in frame.cast]
                assert same(sorted(as_parts(cast), key=by_name), sorted(as_parts(chained), key=by_name)), way.keys()
            again = StoryCastNode.execute(
                EVERYBODY[::-1], [TOLD.frames[3]], [clip], negatives[3:], prompt=[prompt], **way
            ).result[0]
            assert same(as_parts(again[0]), as_parts(casts[3]))


def check_what_does_not_fit_is_refused_by_name():
    loaded = ToyWorldLoaderNode.execute().result
    given = {"frame": [TOLD.frames[3]], "clip": [loaded[CLIP]], "negative": [[]]}
    both = {"photomaker": [loaded[PHOTOMAKER]], "vae": [loaded[VAE]]}
    refused(lambda: StoryCastNode.execute(EVERYBODY, **given), "nothing of photomaker, vae and positive")
    refused(lambda: StoryCastNode.execute(EVERYBODY, **given, **both), "photomaker and vae of photomaker, vae")
    one = {"photomaker": both["photomaker"], "prompt": [FRAME]}
    refused(lambda: StoryCastNode.execute(EVERYBODY[:2], **given, **one), 'Frame 4 shows "Pip"', '"Somebody else"')
    refused(lambda: StoryCastNode.execute([*EVERYBODY, EVERYBODY[0]], **given, **one), 'called "Ben"')
    refused(lambda: StoryCastNode.execute([*EVERYBODY[:3], identity("Mira", 4, 9)], **given, **one), "9 wide")


def check_without_a_workflow_identities_are_found_and_not_saved():
    register_folders()
    loaded = ToyWorldLoaderNode.execute().result
    models = {"model": loaded[MODEL], "clip": loaded[CLIP], "vae": loaded[VAE], "encoder": loaded[PHOTOMAKER]}
    before = list(Path(folder_paths.get_folder_paths("identities")[0]).glob("*"))
    (people,) = CharactersNode.execute("\n".join(LINES.splitlines()[:2])).result
    found, portraits, report = FindIdentityNode.execute(people, **models, **FINDING).result
    assert [each.name for each in found] == ["Mira", "Pip"]
    assert [tuple(each.shape) for each in portraits] == [(3, 64, 64, 3)] * 2
    assert "cannot be known" in report
    assert list(Path(folder_paths.get_folder_paths("identities")[0]).glob("*")) == before
    alone = FindIdentityNode.execute(people[1:], **models, **FINDING).result[0]
    assert torch.equal(alone[0].embedding, found[1].embedding)
    with counted(loaded[MODEL]) as count:
        refused(
            lambda: FindIdentityNode.execute(people, **{**models, "vae": None}, **FINDING),
            "Find Identity",
            "VAE is None",
        )
    assert count.calls == 0
    assert "{character}" in FindIdentityNode.validate_inputs(template="a photo")


def check_load_identity_shows_the_portraits_that_it_carries():
    register_folders()
    folder = Path(folder_paths.get_folder_paths("identities")[0])
    identity("Shown", 5).save(folder / "Shown.safetensors")
    shown = LoadIdentityNode.execute("Shown.safetensors", "")
    assert len(shown.ui.as_dict()["images"]) == 2


def check_characters_are_checked_before_the_run():
    assert CharactersNode.validate_inputs(None) is CharactersNode.validate_inputs(LINES) is True
    folder = Path(folder_paths.get_input_directory())
    Image.new("RGB", (6, 4)).save(folder / "mira.png")
    for text, said in (
        ("Mira | woman", "Character line 1"),
        ("Mira | woman | a woman | gone.png", 'Character "Mira": there is no picture "gone.png"'),
        ("Mira | woman | a woman | ../mira.png", "is not in ComfyUI's input folder"),
        ("Mira | woman | a \ud83d woman", "half of a character"),
    ):
        refusal = CharactersNode.validate_inputs(text)
        assert said in refusal
        assert refusal.isprintable()
    line = "Mira | woman | a woman | mira.png"
    assert CharactersNode.validate_inputs(line) is True
    before = CharactersNode.fingerprint_inputs(line)
    Image.new("RGB", (6, 4), "red").save(folder / "mira.png")
    assert CharactersNode.fingerprint_inputs(line) != before


def check_a_story_takes_characters_and_no_file_beside_them():
    (people,) = CharactersNode.execute(LINES).result
    fields = {"prompts": "Mira waits", "style": "", "negative": ""}
    (story,) = StoryNode.execute(TYPED_IN, "", **fields, character_list=people).result
    assert story.characters == people
    assert StoryNode.validate_inputs(TYPED_IN, "", **fields, character_list=None) is True
    assert "no characters" in StoryNode.validate_inputs(TYPED_IN, "", **fields)
    refused(lambda: StoryNode.execute("tale.json", "", **fields, character_list=people), '"tale.json" has its own')


def check_pictures_of_any_size_and_mode_become_one_batch():
    folder = Path(tempfile.mkdtemp())
    Image.new("L", (30, 10), 255).save(folder / "a.png")
    Image.new("RGBA", (8, 16), (255, 0, 0, 255)).save(folder / "b.png")
    found = pictures_of_one_size([folder / "a.png", folder / "b.png"], 12, 8)
    assert found.shape == (2, 8, 12, 3)
    assert_close(found[0], torch.ones(8, 12, 3))
    assert_close(found[1], torch.tensor([1.0, 0.0, 0.0]).expand(8, 12, 3))
    (folder / "c.png").write_bytes(b"no picture")
    refused(lambda: pictures_of_one_size([folder / "c.png"], 8, 8), '"c.png" cannot be read as a picture')


def registered():
    """ComfyUI's nodes and ours."""
    for kind in asyncio.run(StoryIdentityExtension().get_node_list()):
        nodes.NODE_CLASS_MAPPINGS[kind.GET_SCHEMA().node_id] = kind


def node(class_type, **inputs):
    return {"class_type": f"StoryIdentity{class_type}", "inputs": inputs}


def loop_with(**more):
    """A loop over frames; `more` nodes replace those that are there."""
    made = {
        "story": node("Story"),
        "identities": node("LoadIdentity"),
        "each": node("EachFrame", story=["story", 0]),
        "encoded": node("EncodeFrame", frame=["each", 0]),
        "cache": node("NoisyLatentCache", positive=["encoded", 0], negative=["encoded", 1], seed=["each", 3]),
        "template": {"class_type": "VAEDecode", "inputs": {"samples": ["cache", 0]}},
        "layout": node("GroundedSAMLayout", image=["template", 0], frame=["each", 0]),
        "cast": node("StoryCast", identities=["identities", 0], frame=["each", 0], negative=["encoded", 1]),
        "again": node("Redenoise", cast=["cast", 0], cache=["cache", 1], layout=["layout", 0]),
        "decoded": {"class_type": "VAEDecode", "inputs": {"samples": ["again", 0]}},
        "collected": node("CollectFrames", value_1=["decoded", 0], value_2=["layout", 2], value_3=["layout", 1]),
    } | more
    registered()
    graph = Graph(made.__getitem__, list(made))
    return NameFree(graph, graph.loop("collected"))


def check_a_picture_bears_no_names_unless_something_may_show_them():
    names = loop_with()
    for link in (("decoded", 0), ("template", 0), ("layout", 1), ("again", 0)):
        assert names.is_free(link), link
    for link in (("layout", 2), ("layout", 0), ("cast", 0), ("encoded", 0), ("cache", 1), ("each", 0)):
        assert not names.is_free(link), link
    assert names.is_free(("each", 1))
    titled = node("StorySheet", images=["decoded", 0], frames=["each", 0])
    collected = node("CollectFrames", value_1=["sheet", 0], value_2=["decoded", 0])
    names = loop_with(sheet=titled, collected=collected)
    assert not names.is_free(("sheet", 0))
    assert names.is_free(("decoded", 0))


def check_names_that_come_from_elsewhere_may_now_be_somebody_elses():
    hand = node("Cast", identity=["identities", 0], positive=["encoded", 0], negative=["encoded", 1], frame=["each", 0])
    assert not loop_with(cast=hand).is_free(("decoded", 0))
    outside = node("Cast", identity=["identities", 0])
    names = loop_with(cast=outside)
    assert not names.is_free(("decoded", 0))
    assert names.is_free(("template", 0))
    conditioned = {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["encoded", 0]}}
    cache = node("NoisyLatentCache", positive=["zero", 0], negative=["encoded", 1])
    assert loop_with(zero=conditioned, cache=cache).is_free(("decoded", 0))


def check_an_input_of_known_content_counts_by_its_content():
    registered()

    def key(name_free=False, **changes):
        made = {
            "file": node("LoadIdentity", identity_file="a", rename=""),
            "frame": {**node("FrameConstant", text="Mira"), "without_names": "woman"},
            "cast": {
                **node("StoryCast", identities=["file", 0], frame=["frame", 0]),
                "known": {"identities": ("a", "b")},
            },
        } | changes
        return key_of(Graph(made.__getitem__, list(made)), "cast", name_free)

    other = node("LoadIdentity", identity_file="b", rename="")
    assert key() == key(file=other)
    renamed = {**node("FrameConstant", text="Ada"), "without_names": "woman"}
    cast = node("StoryCast", identities=["file", 0], frame=["frame", 0])
    recast = {**cast, "known": {"identities": ("c", "b")}}
    assert key(frame=renamed, cast=recast) != key()
    assert key(True, frame=renamed, cast=recast) == key(True) != key()
    assert key(True, cast={**cast, "known": {"identities": ("a", "d")}}) != key(True)
    assert key(True, frame={**renamed, "without_names": "man"}) != key(True)
