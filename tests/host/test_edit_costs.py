"""Ten frames of two characters in the shipped workflows: how many samples go through the models after each edit.

A sample is one picture in one evaluation, and with CFG a step takes two. The toy world is as it is shipped; SDXL's
files are stand-ins, which draw noise.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.stand_ins.folder import write_all

from .comfyui import ComfyUI
from .frame_loops import LoopHost, Prompt, node
from .server import SHRINK
from .test_workflows_run import API, SMALL, nodes_of, pixels

pytestmark = pytest.mark.long

MIRA, PIP, BEN = (
    "Mira | woman | a woman with red hair",
    "Pip | robot | a robot with a white lamp",
    "Ben | boy | a boy with black hair",
)
WORDS = (
    "Mira waving and Pip in the garden",
    "Mira sitting on the beach",
    "Pip jumping in the snow",
    "the empty city",
    "Mira in the forest",
    "Pip and Mira in the city",
    "Pip waving in the forest",
    "Mira jumping on the beach",
    "Pip sitting in the garden",
    "Mira and Pip waving in the snow",
)
TOY, SDXL = "toyworld_quickstart", "identitystory_sdxl_two_characters"
PORTRAITS, STEPS, AGAIN = 8 * 2 * 2, 5, 2
"""Samples for one character's portraits, which are eight of two steps with CFG; steps of a template; those of them that
each character is drawn for again."""
TEMPLATE, PERSON = STEPS * 2, AGAIN * 2
"""Samples for a frame: its template, and each character in it once more."""
STORY = 2 * PORTRAITS + 10 * TEMPLATE + 12 * PERSON

LOADERS = {TOY: ("StoryIdentityToyWorldLoader", (0, 1)), SDXL: ("CheckpointLoaderSimple", (0,))}
"""Per workflow the node that loads the models, and its outputs that are some."""

COSTLY: dict[str, dict[str, Any]] = {
    "StoryIdentityNoisyLatentCache": {"steps": STEPS, "keep_from_step": STEPS - AGAIN},
    "StoryIdentityRedenoise": {"start": STEPS - AGAIN},
    "StoryIdentityFindIdentity": {**SMALL["StoryIdentityFindIdentity"], "reuse": "if it fits"},
    "StoryIdentityStorySheet": SMALL["StoryIdentityStorySheet"],
}
SMALL_SDXL = {kind: SMALL[kind] for kind in ("EmptyLatentImage", "StoryIdentityGroundedSAMLayout")}


@dataclass(frozen=True)
class Told:
    """A shipped workflow with a story of its own, small, its samples counted."""

    host: LoopHost
    name: str

    def graph(self, people: Sequence[str], words: Sequence[str]) -> Prompt:
        graph = json.loads((API / f"{self.name}.json").read_text(encoding="utf-8"))
        kind, slots = LOADERS[self.name]
        (loader,) = nodes_of(graph, kind)
        counted = {(loader, slot): [f"counted {slot}", 0] for slot in slots}
        small = COSTLY | (SMALL_SDXL if self.name == SDXL else {})
        for each in graph.values():
            each["inputs"] |= small.get(each["class_type"], {})
            for key, value in each["inputs"].items():
                if isinstance(value, list) and tuple(value) in counted:
                    each["inputs"][key] = counted[tuple(value)]
        graph |= {link[0]: node("CountEvaluations", model=list(origin)) for origin, link in counted.items()}
        (characters,), (story,) = (nodes_of(graph, f"StoryIdentity{kind}") for kind in ("Characters", "Story"))
        (collect,) = nodes_of(graph, "StoryIdentityCollectFrames")
        graph[characters]["inputs"]["characters"] = "\n".join(people)
        graph[story]["inputs"]["prompts"] = "\n".join(words)
        graph["shown"] = node("PreviewImage", images=[collect, 1])
        return graph

    def run(self, people: Sequence[str], words: Sequence[str]) -> tuple[list[bytes], int]:
        """The pictures of the frames, and the samples that they cost."""
        self.host.samples()
        outputs = self.host.run(self.graph(people, words), timeout_s=900)
        return [pixels(file.path) for file in self.host.files(outputs["shown"])], self.host.samples()


def edited(story: Sequence[str], place: int, words: str) -> list[str]:
    return [*story[:place], words, *story[place + 1 :]]


def renamed(lines: Sequence[str]) -> list[str]:
    return [line.replace("Mira", "Ada") for line in lines]


def check_costs(told: Told) -> list[bytes]:
    """Every edit of the story costs what it changes; gives the pictures of the story."""
    both, more = (MIRA, PIP), "Ben and Pip in the city"
    story, samples = told.run(both, WORDS)
    assert (len(set(story)), samples) == (10, STORY)
    pictures, samples = told.run(both, edited(WORDS, 1, "Mira sitting in the snow"))
    assert ([pictures[0], *pictures[2:]], samples) == ([story[0], *story[2:]], TEMPLATE + PERSON)
    assert pictures[1] != story[1]
    assert told.run(both, WORDS) == (story, 0)  # A, B, A gives A's bytes
    pictures, samples = told.run(both, [*WORDS[:4], "Mira and Pip jumping in the garden", *WORDS[4:]])
    assert ([*pictures[:4], *pictures[5:]], samples) == (story, TEMPLATE + 2 * PERSON)
    assert told.run(renamed(both), renamed(WORDS)) == (story, 0)
    pictures, samples = told.run((MIRA, BEN, PIP), [*WORDS, more])
    assert (pictures[:10], samples) == (story, PORTRAITS + TEMPLATE + 2 * PERSON)
    assert told.run((PIP, MIRA), list(reversed(WORDS))) == (story[::-1], 0)
    return story


def check_restart(told: Told, story: list[bytes]) -> None:
    """After a restart nothing is drawn, whoever is renamed; then an edit costs what it costs before."""
    with told.host:
        assert told.run((MIRA, PIP), WORDS) == (story, 0)
        assert told.run(renamed((MIRA, PIP)), renamed(WORDS)) == (story, 0)
        pictures, samples = told.run((MIRA, PIP), edited(WORDS, 3, "the empty forest"))
        assert (pictures[:3], samples) == (story[:3], TEMPLATE)


@pytest.mark.parametrize("options", [(), ("--cache-classic",), ("--cache-lru", "10")], ids=" ".join)
def test_the_toy_worlds_story_costs_what_an_edit_changes(comfyui: ComfyUI, tmp_path: Path, options: tuple[str, ...]):
    told = Told(LoopHost(comfyui, tmp_path, *options), TOY)
    with told.host:
        story = check_costs(told)
    check_restart(told, story)


def test_without_a_cache_frames_cost_everything_and_identities_nothing(comfyui: ComfyUI, tmp_path: Path):
    told = Told(LoopHost(comfyui, tmp_path, "--cache-none"), TOY)
    with told.host:
        story, samples = told.run((MIRA, PIP), WORDS)
        assert (len(set(story)), samples) == (10, STORY)
        frames = STORY - 2 * PORTRAITS
        assert told.run((MIRA, PIP), WORDS) == (story, frames)
        pictures, samples = told.run(renamed((MIRA, PIP)), renamed(WORDS[:2]))
        assert (pictures, samples) == (story[:2], 2 * TEMPLATE + 3 * PERSON)
    with told.host:
        assert told.run((MIRA, PIP), WORDS) == (story, frames)


def test_sdxls_story_costs_what_an_edit_changes(comfyui: ComfyUI, tmp_path: Path):
    told = Told(LoopHost(comfyui, tmp_path, packs=(SHRINK,)), SDXL)
    write_all(told.host.models_dir)
    with told.host:
        story = check_costs(told)
    check_restart(told, story)
