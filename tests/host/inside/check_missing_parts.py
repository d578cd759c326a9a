"""A checkpoint without text encoder, VAE or diffusion model: every node that takes one refuses None at once."""

import asyncio

import setting
import torch
from setting import refused
from story_identity.core.story import Story
from story_identity.nodes.extension import StoryIdentityExtension
from story_identity.nodes.find_identity import FindIdentityNode
from story_identity.nodes.identity import CharacterPortraitsNode
from story_identity.nodes.sampling import CastNode
from story_identity.nodes.scores import ScoreStoryNode
from story_identity.nodes.story import EncodeFrameNode, EncodeStoryNode
from story_identity.nodes.story_cast import StoryCastNode

MAY_BE_LEFT_OUT = ((CastNode, "model"), (ScoreStoryNode, "clip_vision"), (StoryCastNode, "vae"))
PARTS = {"MODEL": "diffusion model", "CLIP": "text encoder", "VAE": "VAE", "CLIP_VISION": "image encoder"}


def nodes():
    return asyncio.run(StoryIdentityExtension().get_node_list())


def taken(schema):
    """Which inputs of a node are parts of a checkpoint."""
    return {each.id: each.io_type for each in schema.inputs if each.io_type in PARTS}


def story():
    people = [{"name": "Mira", "word": "woman", "description": "a woman with red hair"}]
    return Story.parse({"characters": people, "frames": ["Mira waits"]})


def check_every_node_that_takes_a_part_of_a_checkpoint_refuses_none():
    found = 0
    for node in nodes():
        schema = node.define_schema()
        for missing, socket in taken(schema).items():
            if (node, missing) in MAY_BE_LEFT_OUT:
                continue
            given = {each.id: None if each.id == missing else object() for each in schema.inputs}
            if schema.is_input_list:
                given = {name: [value] for name, value in given.items()}
            if "faces" in given and missing == "clip_vision":
                given |= {"name": ["Mira"], "faces": None}
            if node is FindIdentityNode:
                given["characters"] = story().characters
            if node in (EncodeStoryNode, EncodeFrameNode):
                given |= {"story": story()} if node is EncodeStoryNode else {"frame": story().frames[0]}
            refused(lambda node=node, given=given: node.execute(**given), schema.display_name, socket, PARTS[socket])
            found += 1
    assert found >= 11, found


def check_portraits_are_refused_before_any_is_sampled():
    model, clip, _ = setting.stand_in_sdxl()
    settings = {"batch_size": 1, "seed": 0, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal"}
    with setting.counted(model) as count:
        refused(
            lambda: CharacterPortraitsNode.execute(
                model, clip, None, story(), "", 1, "a photo of {character}", "", width=64, height=64, **settings
            ),
            "Character Portraits: the VAE is None",
            "Load VAE",
        )
    assert count.calls == 0


def check_pictures_without_an_image_encoder_need_none():
    """Nothing connected is not the same as None from a loader."""
    from story_identity.nodes.injector import FaceFeaturesNode

    given = {"images": [torch.zeros(1, 64, 64, 3)], "name": ["Mira"], "crop": ["as it is"]}
    refused(lambda: FaceFeaturesNode.execute(**given, face_models=["none"]), "connect a CLIP_VISION")
