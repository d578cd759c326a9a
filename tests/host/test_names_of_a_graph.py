"""Names and people that other nodes have than Story: in a real server, refused whenever a workflow is sent."""

import json
from collections.abc import Iterator

import pytest
from story_identity.core.toyworld.sizes import TOY_WORLD

from .comfyui import ComfyUI
from .frame_loops import LoopHost, Prompt, node
from .server import RunError
from .test_former_versions import FORMER
from .test_story_cast import MIRA, PIP, WORDS, drawn, inputs_of, told
from .test_workflows_run import nodes_of


@pytest.fixture(scope="module")
def host(comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopHost]:
    with LoopHost(comfyui, tmp_path_factory.mktemp("names")) as server:
        yield server


def with_single_nodes(name: str = "Mira", seed: int = 1) -> Prompt:
    """A workflow of single nodes, small, its evaluations counted, in which Identity Discovery names one character."""
    graph: Prompt = json.loads(FORMER.read_text(encoding="utf-8"))
    small = {
        "StoryIdentityCharacterPortraits": {"count": 8, "batch_size": 8, "steps": 2},
        "StoryIdentityIdentityDiscovery": {"rank": 2, "iterations": 2},
        "StoryIdentityNoisyLatentCache": {"steps": 4, "keep_from_step": 2},
        "StoryIdentityRedenoise": {"start": 2},
        "StoryIdentityStoryFrames": {"frames": "1", "seed": seed},
        "EmptyLatentImage": {"width": TOY_WORLD.picture_side, "height": TOY_WORLD.picture_side},
    }
    (toy,) = nodes_of(graph, "StoryIdentityToyWorldLoader")
    for each in graph.values():
        each["inputs"] |= small.get(each["class_type"], {})
        for key, value in each["inputs"].items():
            if value in ([toy, 0], [toy, 1]):
                each["inputs"][key] = [f"counted {value[1]}", 0]
    first = nodes_of(graph, "StoryIdentityIdentityDiscovery")[0]
    graph[first]["inputs"]["name"] = name
    return graph | {f"counted {slot}": node("CountEvaluations", model=[toy, slot]) for slot in (0, 1)}


def test_a_name_is_checked_again_when_story_itself_has_not_changed(host: LoopHost):
    host.run(with_single_nodes())
    assert host.evaluations() > 0
    with pytest.raises(RunError, match='Discovery.*: name is "Mria", but the story has "Mira", "Pip"'):
        host.run(with_single_nodes("Mria", seed=2))
    assert host.evaluations() == 0
    host.run(with_single_nodes())
    assert host.evaluations() == 0  # what was refused has taken nothing from ComfyUI's cache


def apart(lines: str, words: str) -> Prompt:
    """A workflow whose Characters node, of Mira and Pip, is not connected to its Story, which has its own lines."""
    graph = told(MIRA, PIP, words=(words,))
    del inputs_of(graph, "Story")["character_list"]
    inputs_of(graph, "Story")["characters"] = lines
    return graph


@pytest.mark.parametrize(
    ("lines", "words", "said"),
    [
        ("Zoe | girl | a girl", "Zoe waves", r'"Zoe" is "girl \| a girl" in the story, .* has no such person'),
        (f"{PIP}\nMira | woman | a woman", "Pip and Mira", r'"Mira" is .* \(node \d+\) has "woman \| a woman with'),
    ],
)
def test_other_people_than_in_characters_are_refused_before_a_portrait(
    host: LoopHost, lines: str, words: str, said: str
):
    host.ran()
    with pytest.raises(RunError, match=f"{said}.*Connect Characters to character_list"):
        host.run(apart(lines, words))
    assert host.evaluations() == 0


def test_the_same_people_in_both_places_are_no_mistake(host: LoopHost):
    host.run(apart(f"{MIRA}\nZoe | girl | a girl", "Mira waves"))


def test_other_people_in_a_story_file_are_refused_before_a_portrait(host: LoopHost):
    story = {"characters": [{"name": "Zoe", "word": "girl", "description": "a girl"}], "frames": ["Zoe waves"]}
    (host.input_dir / "zoe.json").write_text(json.dumps(story), encoding="utf-8")
    graph = apart("", WORDS[0])
    inputs_of(graph, "Story")["story_file"] = "zoe.json"
    host.ran()
    with pytest.raises(RunError, match="a story of a file has its own: connect story in place of Characters"):
        host.run(graph)
    assert host.evaluations() == 0
    (found,) = nodes_of(graph, "StoryIdentityFindIdentity")
    graph[found]["inputs"]["characters"] = [*nodes_of(graph, "StoryIdentityStory"), 0]
    assert len(drawn(host, graph)[0]) == 1
