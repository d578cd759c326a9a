"""Characters, Find Identity, Story Cast, Each Character: in a real server, what an edit of the characters costs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from .comfyui import ComfyUI
from .frame_loops import LoopHost, Prompt, node
from .server import RunError
from .test_toyworld_run import shipped
from .test_workflows_run import nodes_of, pixels

MIRA, PIP, BEN = (
    "Mira | woman | a woman with red hair",
    "Pip | robot | a robot with a white lamp",
    "Ben | boy | a boy with black hair",
)
WORDS = ("Mira waving and Pip in the garden", "Mira sitting on the beach", "Pip jumping in the snow")
PORTRAITS, TEMPLATE, AGAIN = 2, 5, 2
"""Evaluations of the model: for one character's portraits, for a template, and for one character in one frame."""

SMALL: dict[str, dict[str, Any]] = {
    "StoryIdentityFindIdentity": {"count": 8, "batch_size": 8, "steps": PORTRAITS, "rank": 2, "iterations": 2},
    "StoryIdentityNoisyLatentCache": {"steps": TEMPLATE, "keep_from_step": 2},
    "StoryIdentityRedenoise": {"start": TEMPLATE - AGAIN},
}


@pytest.fixture(scope="module")
def host(comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopHost]:
    with LoopHost(comfyui, tmp_path_factory.mktemp("cast")) as server:
        yield server


def told(*people: str, words: tuple[str, ...] = WORDS, **finding: Any) -> Prompt:
    """The shipped workflow with other people and words, made small, its evaluations counted."""
    graph = shipped()
    (toy,) = nodes_of(graph, "StoryIdentityToyWorldLoader")
    for each in graph.values():
        each["inputs"] |= SMALL.get(each["class_type"], {})
        for name, value in each["inputs"].items():
            if value in ([toy, 0], [toy, 1]):
                each["inputs"][name] = [f"counted {value[1]}", 0]
    graph |= {f"counted {slot}": node("CountEvaluations", model=[toy, slot]) for slot in (0, 1)}
    inputs_of(graph, "Characters")["characters"] = "\n".join(people)
    inputs_of(graph, "Story")["prompts"] = "\n".join(words)
    inputs_of(graph, "FindIdentity").update(finding)
    graph["shown"] = node("PreviewImage", images=inputs_of(graph, "StorySheet")["images"])
    return graph


def inputs_of(graph: Prompt, kind: str) -> dict[str, Any]:
    (key,) = nodes_of(graph, f"StoryIdentity{kind}")
    return graph[key]["inputs"]


def drawn(host: LoopHost, graph: Prompt) -> tuple[list[bytes], int]:
    """The pictures of the frames, and how often the models were evaluated for them."""
    host.ran()
    outputs = host.run(graph)
    return [pixels(file.path) for file in host.files(outputs["shown"])], host.evaluations()


def called(name: str, *lines: str) -> tuple[str, ...]:
    """The lines with another name for Mira."""
    return tuple(line.replace("Mira", name) for line in lines)


def check_counts(host: LoopHost, story: list[bytes]) -> None:
    """An edit costs what it changes."""
    edited, evaluations = drawn(host, told(MIRA, PIP, words=(WORDS[0], "Mira in the snow", WORDS[2])))
    assert ([edited[0], edited[2]], evaluations) == ([story[0], story[2]], TEMPLATE + AGAIN)
    assert edited[1] != story[1]
    inserted, evaluations = drawn(host, told(MIRA, PIP, words=("Pip in the city", *WORDS)))
    assert (inserted[1:], evaluations) == (story, TEMPLATE + AGAIN)
    assert drawn(host, told(*called("Ada", MIRA, PIP), words=called("Ada", *WORDS))) == (story, 0)
    assert drawn(host, told(BEN, PIP, MIRA)) == (story, PORTRAITS)
    more, evaluations = drawn(host, told(MIRA, PIP, BEN, words=(*WORDS, "Ben and Mira in the city")))
    assert (more[:3], evaluations) == (story, TEMPLATE + 2 * AGAIN)
    changed, evaluations = drawn(host, told(MIRA.replace("red", "black"), PIP))
    assert (changed[2], evaluations) == (story[2], PORTRAITS + 2 * TEMPLATE + 3 * AGAIN)
    assert not set(changed[:2]) & set(story)
    assert drawn(host, told(MIRA, PIP)) == (story, 0)


def test_an_edit_costs_what_it_changes_and_a_restart_nothing(comfyui: ComfyUI, tmp_path: Path):
    host = LoopHost(comfyui, tmp_path)
    whole = 2 * PORTRAITS + 3 * TEMPLATE + 4 * AGAIN
    with host:
        story, evaluations = drawn(host, told(MIRA, PIP))
        assert (len(set(story)), evaluations) == (3, whole)
        check_counts(host, story)
        assert drawn(host, by_hand(MIRA, PIP)) == (story, 2 * PORTRAITS)
    host.options = ("--cache-classic",)
    with host:
        assert drawn(host, told(MIRA, PIP)) == (story, 0)
        assert drawn(host, by_hand(MIRA, PIP)) == (story, 0)
        city = told(*called("Ada", MIRA, PIP), words=(*called("Ada", *WORDS), "Ada in the city"))
        more, evaluations = drawn(host, city)
        assert (more[:3], evaluations) == (story, TEMPLATE + AGAIN)
    host.options = ("--cache-none",)
    with host:
        assert drawn(host, told(MIRA, PIP)) == (story, whole - 2 * PORTRAITS)


def test_two_people_who_swap_their_names_are_drawn_as_who_they_are(host: LoopHost):
    """What is kept without names is never taken for somebody else's."""
    story, _ = drawn(host, told(MIRA, PIP))
    swapped = [line.replace("Pip", "X").replace("Mira", "Pip").replace("X", "Mira") for line in (MIRA, PIP, *WORDS)]
    assert drawn(host, told(*swapped[:2], words=tuple(swapped[2:]))) == (story, 0)
    other, evaluations = drawn(host, told(*swapped[:2]))
    assert evaluations == 3 * TEMPLATE + 4 * AGAIN
    assert not set(other) & set(story)


def test_a_renamed_character_is_drawn_as_if_they_had_always_been_called_so(host: LoopHost):
    drawn(host, told(MIRA, PIP))
    renamed = told(*called("Ada", MIRA, PIP), words=called("Ada", *WORDS))
    inputs_of(renamed, "Redenoise")["start"] = TEMPLATE - AGAIN - 1
    story, _ = drawn(host, renamed)  # what was kept under the other name is not mixed in
    host.delete("/story_identity/finished_frames")
    host.forget()
    again, evaluations = drawn(host, renamed)
    assert (again, evaluations) == (story, 3 * TEMPLATE + 4 * (AGAIN + 1))


def test_reuse_says_what_it_took_and_why_it_took_nothing(host: LoopHost):
    graph = told(MIRA, PIP)
    host.run(graph)
    (found,) = nodes_of(graph, "StoryIdentityFindIdentity")
    (mira,) = (host.models_dir / "identities").glob("Mira_*.safetensors")
    host.forget()
    assert "".join(host.run(graph)[found]["text"]).startswith(f'"Mira": loaded from {mira.name}.')
    host.ran()
    for change, said in (
        ({"steps": 3}, "does not fit: steps is 2 there, 3 here"),
        ({"seed": 2}, "does not fit: seed is"),
        ({"negative": "dark"}, 'negative is "" there, "dark" here'),
        ({"model": ["counted 1", 0]}, "does not fit: the model is another"),
        ({"reuse": "never"}, "found anew, as reuse says"),
    ):
        assert said in "".join(host.run(told(MIRA, words=WORDS[1:2], **change))[found]["text"])
        assert host.evaluations() >= PORTRAITS


def test_somebody_without_identity_is_named_before_a_frame_is_drawn(host: LoopHost):
    host.run(told(MIRA, words=WORDS[1:2]))
    graph = told(MIRA)
    graph["others"] = node("StoryIdentityCharacters", characters=f"{MIRA}\n{PIP}")
    inputs_of(graph, "Story")["character_list"] = ["others", 0]
    host.ran()
    with pytest.raises(RunError, match=r'Frame 1 shows "Pip", but there is no identity.*There is "Mira"'):
        host.run(graph)
    assert host.evaluations() == 0


def test_too_few_portraits_are_refused_before_they_are_drawn(host: LoopHost):
    host.ran()
    with pytest.raises(RunError, match="count is 2, too few portraits for any rank with keep_ratio 0.6"):
        host.run(told(MIRA, words=WORDS[1:2], count=2))
    assert host.evaluations() == 0


def test_lines_that_contradict_the_characters_are_refused_before_a_portrait_is_drawn(host: LoopHost):
    graph = told("Zoe | girl | a girl with white hair", words=("Zoe in the snow",))
    inputs_of(graph, "Story")["characters"] = "Zoe | girl | a girl with brown hair"
    host.ran()
    with pytest.raises(RunError, match=r'line 1: "Zoe" is .* here, but .* in character_list'):
        host.run(graph)
    assert host.evaluations() == 0


def test_pictures_of_a_character_take_the_place_of_portraits(host: LoopHost):
    line, words = f"{MIRA} | mira_1.png, mira_2.png", ("Mira in the snow",)
    with pytest.raises(RunError, match='Character \\\\?"Mira\\\\?": there is no picture \\\\?"mira_1.png'):
        host.run(told(line))
    for number, colour in ((1, "red"), (2, "orange")):
        Image.new("RGB", (90, 60 + number), colour).save(host.input_dir / f"mira_{number}.png")
    first, evaluations = drawn(host, told(line, words=words))
    assert evaluations == TEMPLATE + AGAIN
    assert drawn(host, told(*called("Ada", line), words=called("Ada", *words))) == (first, 0)
    Image.new("RGB", (90, 61), "blue").save(host.input_dir / "mira_1.png")
    second, evaluations = drawn(host, told(line, words=words))
    assert (second != first, evaluations) == (True, AGAIN)  # the template is kept


def by_hand(*people: str, words: tuple[str, ...] = WORDS) -> Prompt:
    """Each Character and the single nodes in place of Find Identity."""
    graph = told(*people, words=words)
    (found,) = nodes_of(graph, "StoryIdentityFindIdentity")
    given = graph.pop(found)["inputs"]
    discovery = {name: given[name] for name in ("rank", "keep_ratio", "iterations")}
    drawing = {name: value for name, value in given.items() if name not in {*discovery, "characters", "encoder"}}
    graph["each person"] = node("StoryIdentityEachCharacter", characters=given["characters"], seed=given["seed"])
    drawing |= {"story": ["each person", 0], "character": "", "seed": ["each person", 4]}
    del drawing["reuse"], drawing["representatives"]
    graph["portraits"] = node("StoryIdentityCharacterPortraits", **drawing)
    graph["found"] = node(
        "StoryIdentityIdentityDiscovery",
        portraits=["portraits", 0],
        photomaker=given["encoder"],
        name=["each person", 1],
        description=["each person", 2],
        rank_too_large="error",
        **discovery,
    )
    graph["everybody"] = node("StoryIdentityCollectCharacters", value_1=["found", 0])
    inputs_of(graph, "StoryCast")["identities"] = ["everybody", 1]
    return graph


def test_the_single_nodes_in_a_loop_find_the_same_and_cost_the_same(host: LoopHost):
    story, _ = drawn(host, told(MIRA, PIP))
    host.delete("/story_identity/finished_frames")
    host.forget()
    assert drawn(host, by_hand(MIRA, PIP)) == (story, 2 * PORTRAITS + 3 * TEMPLATE + 4 * AGAIN)
    assert drawn(host, by_hand(PIP, BEN, MIRA)) == (story, PORTRAITS)
    assert drawn(host, by_hand(*called("Ada", MIRA, PIP), words=called("Ada", *WORDS))) == (story, 0)


MIA = MIRA.replace("Mira", "Mia")


def test_two_people_of_the_same_words_get_different_faces(host: LoopHost):
    """By seeds of their own, which Find Identity says; a loop that has only one seed for both is refused."""
    words = ("Mira in the forest", "Mia in the forest")
    graph = told(MIRA, MIA, words=words)
    pictures, evaluations = drawn(host, graph)
    (found,) = nodes_of(graph, "StoryIdentityFindIdentity")
    host.forget()
    assert 'The words are those of "Mira"; another seed' in "".join(host.run(graph)[found]["text"])
    loop = by_hand(MIRA, MIA, words=words)
    again, _ = drawn(host, loop)
    assert (len(set(pictures)), again) == (2, pictures)
    loop["portraits"]["inputs"]["seed"] = 1
    with pytest.raises(RunError, match='"Mira" and "Mia" have the same class word and description.*Connect seed'):
        host.run(loop)
    assert host.evaluations() == 0
    two = by_hand(MIRA, PIP, words=WORDS[1:])
    two["portraits"]["inputs"]["seed"] = 1
    assert len(set(drawn(host, two)[0])) == 2


def test_loops_of_two_kinds_do_not_mix(host: LoopHost):
    graph = by_hand(MIRA, PIP)
    graph["everybody"]["class_type"] = "StoryIdentityCollectFrames"
    with pytest.raises(RunError, match=r"does not end the loop that Each Character \(#each person\) begins"):
        host.run(graph)
    graph = by_hand(MIRA, PIP)
    inputs_of(graph, "StoryCast")["identities"] = ["found", 0]
    with pytest.raises(RunError, match="both lead to it, so that one loop lies in the other"):
        host.run(graph)


def test_the_shipped_workflow_shows_three_people_with_few_nodes():
    graph = shipped()
    assert len(inputs_of(graph, "Characters")["characters"].splitlines()) == 3
    assert len({key.split(":")[0] for key in graph}) <= 9
