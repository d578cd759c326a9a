"""MODELs at the wrong input, and names that the story does not have: refused or named before the first model call."""

import logging
from functools import cache
from pathlib import Path

import folder_paths
import torch
from setting import counted, refused
from story_identity.core.identity import Identity
from story_identity.core.layout import Layout
from story_identity.core.story import Story
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.nodes.amsa import AMSANode
from story_identity.nodes.host.folders import register_folders
from story_identity.nodes.host.graph_names import (
    FAULT,
    check_characters,
    check_typed_names,
    unused_characters,
    with_fault,
)
from story_identity.nodes.host.miswiring import base_as_generator, generator_as_base
from story_identity.nodes.host.toy_transformer import load_transformer
from story_identity.nodes.identity import CharacterPortraitsNode, IdentityConditioningNode
from story_identity.nodes.layout import GroundedSAMLayoutNode
from story_identity.nodes.sampling import CastNode, NoisyLatentCacheNode, RedenoiseNode
from story_identity.nodes.story import EncodeStoryNode
from story_identity.nodes.toyworld import ToyWorldLoaderNode

import nodes

SIDE = TOY_WORLD.picture_side
MIRA = {"name": "Mira", "word": "woman", "description": "a woman with red hair"}
STORY = Story.parse({"characters": [MIRA], "frames": ["Mira waits", "Mira sleeps"]})
SAMPLING = (1, 3, 4.0, "euler", "normal", 1.0, 0, "float32")


@cache
def world():
    names = ("model", "generator", "clip", "vae", "photomaker", "detector")
    return dict(zip(names, ToyWorldLoaderNode.execute().result, strict=False))


def prompts():
    (positive,) = nodes.CLIPTextEncode().encode(world()["clip"], STORY.frames[0].prompt)
    (negative,) = nodes.CLIPTextEncode().encode(world()["clip"], "")
    return positive, negative


def empty():
    return {"samples": torch.zeros(1, 8, 16, 16)}


def said(action):
    lines = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.WARNING:
                lines.append(record.getMessage())

    listener = Listener()
    logging.getLogger().addHandler(listener)
    try:
        result = action()
    finally:
        logging.getLogger().removeHandler(listener)
    return result, lines


def template(model):
    return NoisyLatentCacheNode.execute(model, *prompts(), empty(), *SAMPLING)


def cast():
    identity = Identity(
        "Mira", MIRA["description"], TOY_WORLD.name, torch.ones(TOY_WORLD.text_width) / TOY_WORLD.text_width**0.5
    )
    (fused,) = IdentityConditioningNode.execute(
        world()["clip"], world()["photomaker"], identity, STORY.frames[0]
    ).result
    return CastNode.execute(identity, fused, prompts()[1]).result[0]


def portraits(model):
    return CharacterPortraitsNode.execute(
        model, world()["clip"], world()["vae"], STORY, "Mira", 1, "a photo of {character}", "", batch_size=1, seed=1,
        steps=1, cfg=1.0, sampler_name="euler", scheduler="normal", width=64, height=64,
    )  # fmt: skip


def check_an_identity_generator_as_base_model_is_named_and_a_base_model_is_not():
    for node, run in (("Noisy Latent Cache", template), ("Character Portraits", portraits)):
        _, lines = said(lambda run=run: run(world()["generator"]))
        assert [line for line in lines if line.startswith(f"{node}: the MODEL is an identity generator's")], lines
        _, lines = said(lambda run=run: run(world()["model"]))
        assert not lines, lines
    assert generator_as_base("x", world()["generator"].clone()) != []  # a LoRA after it changes nothing


def check_a_base_model_that_is_to_draw_identities_is_named():
    cache = template(world()["model"]).result[1]
    masks = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    masks[:, 32:96, 32:96] = True
    layout = Layout(("Mira",), masks, "frame 1")
    _, lines = said(lambda: RedenoiseNode.execute(world()["model"], cast(), cache, layout, 0.2, 0, 4.0, "hard"))
    assert ["Mira" in line and "PhotoMaker's LoRA" in line for line in lines] == [True], lines
    done, lines = said(lambda: RedenoiseNode.execute(world()["generator"], cast(), cache, layout, 0.2, 0, 4.0, "hard"))
    assert not lines, lines
    assert "steps 2 to 3 of 3" in str(done.ui.as_dict()["text"])
    with_own_model = CastNode.execute(cast()[0].identity, cast()[0].positive, prompts()[1], model=world()["generator"])
    assert base_as_generator(world()["model"], with_own_model.result[0]) == []


def check_photomakers_prompts_are_refused_for_a_transformer():
    transformer = load_transformer()
    cache, layout = template(world()["model"]).result[1], Layout(("Mira",), torch.ones(1, SIDE, SIDE) > 0, "frame 1")
    fused = cast()[0]
    own = CastNode.execute(fused.identity, fused.positive, prompts()[1], model=transformer).result[0]
    for model, members in ((transformer, cast()), (world()["generator"], own)):
        given = (model, members, cache, layout, 0.2, 0, 4.0, "hard")
        refused(
            lambda given=given: RedenoiseNode.execute(*given),
            "Progressive-Mask Re-denoise", '"Mira"', "diffusion transformer", "Reference Conditioning",
        )  # fmt: skip


def check_shared_attention_is_refused_where_one_frame_is_sampled():
    story, _, _ = EncodeStoryNode.execute(world()["clip"], STORY).result
    assert story
    (shared,) = AMSANode.execute(world()["model"], STORY, 1.0, "all", 0.0, 1.0, True, 0, 0.0, 1.0).result
    cache = template(world()["model"]).result[1]
    layout = Layout(("Mira",), torch.ones(1, SIDE, SIDE, dtype=torch.bool), "frame 1")
    with counted(world()["model"]) as evaluations:
        refused(lambda: template(shared), "Noisy Latent Cache", "AMSA Model Patch", "before AMSA Model Patch")
        refused(lambda: portraits(shared), "Character Portraits", "AMSA Model Patch")
        refused(
            lambda: RedenoiseNode.execute(shared, cast(), cache, layout, 0.2, 0, 4.0, "hard"),
            "Progressive-Mask Re-denoise", "AMSA Model Patch",
        )  # fmt: skip
    assert evaluations.samples == 0


def check_the_layout_reports_on_itself():
    picture = torch.rand(1, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(1))
    found = GroundedSAMLayoutNode.execute(picture, world()["detector"], 1.0, 1.0, 0, "skip", STORY.frames[0])
    assert '"Mira": not found' in str(found.ui.as_dict()["text"])


def graph(name, meets=True, more=None):
    return {
        "1": {"class_type": "StoryIdentityStory", "inputs": {}},
        "2": {"class_type": "StoryIdentityStoryFrames", "inputs": {"story": ["1", 0]}},
        "3": {"class_type": "StoryIdentityLoadIdentity", "inputs": {"rename": name}, "_meta": {"title": "Her"}},
        "4": {"class_type": "StoryIdentityCast", "inputs": {"identity": ["3", 0], "frame": ["2" if meets else "9", 0]}},
        **(more or {}),
    }  # fmt: skip


def check_names_that_other_nodes_bear():
    """Reference Conditioning's name, and a saved identity's own; Story Cast takes more people than the story has."""
    register_folders()
    folder = Path(folder_paths.get_folder_paths("identities")[0])
    folder.mkdir(parents=True, exist_ok=True)
    Identity("Mria", "", TOY_WORLD.name, torch.ones(4)).save(folder / "hers.safetensors")
    saved = graph("")
    saved["3"]["inputs"]["identity_file"] = "hers.safetensors"
    refused(lambda: check_typed_names(STORY, saved), "Her (node 3)", "the name in identity_file", '"Mria"')
    reference = {"class_type": "StoryIdentityReferenceConditioning", "inputs": {"name": "Mria", "frame": ["2", 0]}}
    refused(lambda: check_typed_names(STORY, graph("Mira", more={"5": reference})), "node 5", '"Mria"')
    anybody = {"class_type": "StoryIdentityStoryCast", "inputs": {"identities": ["3", 0], "frame": ["2", 0]}}
    check_typed_names(STORY, {**graph("Mria"), "4": anybody})


def check_characters_that_the_story_does_not_take_are_named():
    people = {"class_type": "StoryIdentityCharacters", "inputs": {}}
    assert unused_characters(graph("Mira")) == []
    assert "character_list" in unused_characters(graph("Mira", more={"6": people}))[0]
    taken = graph("Mira", more={"6": people})
    taken["1"]["inputs"]["character_list"] = ["6", 0]
    assert unused_characters(taken) == []


def check_characters_apart_from_the_story_must_be_the_same():
    def with_people(lines, meets=True):
        people = {"class_type": "StoryIdentityCharacters", "inputs": {"characters": lines}}
        found = {"class_type": "StoryIdentityFindIdentity", "inputs": {"characters": ["6", 0]}}
        cast = {"identities": ["7", 0], "frame": ["2" if meets else "9", 0]}
        return graph("", more={"6": people, "7": found, "8": {"class_type": "StoryIdentityStoryCast", "inputs": cast}})

    mira = STORY.characters[0]
    same = f"Mira | {mira.word} | {mira.description}"
    zoe = "Zoe | girl | a girl"
    for fine in (with_people(same), with_people(f"{same}\n{zoe}"), with_people(zoe, False)):
        check_characters(STORY, fine)
    for other in (with_people(zoe), with_people(f"{same} with a hat")):
        refused(lambda other=other: check_characters(STORY, other), '"Mira"', "node 6", "character_list")
    taken = with_people(zoe)
    taken["1"]["inputs"]["character_list"] = ["6", 0]
    check_characters(STORY, taken)


def check_a_workflow_that_is_sent_says_at_story_what_does_not_fit():
    written = {"story_file": "(typed in below)", "characters": "Mira | woman | a woman", "prompts": "Mira waves"}
    sent = graph("Mria")
    sent["1"]["inputs"] = {**written, "style": "", "negative": ""}
    assert 'rename is "Mria"' in with_fault(sent)["1"]["inputs"][FAULT]
    assert with_fault(graph("Mria")) == graph("Mria")  # a story that cannot be read here is checked when it runs
    for unknown in ({"characters": ["9", 0]}, {"character_list": ["9", 0]}, {"prompts": ""}, {"characters": 5}):
        other = {**sent, "1": {**sent["1"], "inputs": {**sent["1"]["inputs"], **unknown}}}
        assert with_fault(other) == other, unknown
    for damaged in ({"1": 5}, {"1": {"class_type": "StoryIdentityStory"}}, {"1": {"inputs": {}}}):
        assert with_fault(damaged) == damaged


def check_typed_names_are_compared_with_the_story():
    refused(lambda: check_typed_names(STORY, graph("Mria")), "Her (node 3)", 'rename is "Mria"', '"Mira"')
    for fine in (graph("Mira"), graph(" Mira "), graph(""), graph(["8", 0]), graph("Mria", meets=False)):
        check_typed_names(STORY, fine)
    check_typed_names(STORY, graph("Mria", more={"7": {"class_type": "StoryIdentityStory", "inputs": {}}}))
    check_typed_names(STORY, {})
