"""Characters that nodes of a graph name or describe, checked against its story before anything is sampled."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ...core.character_mentions import Character
from ...core.identity import Identity
from ...core.quoting import quote
from ...core.story import Story
from ...core.story_characters import typed_characters
from ...core.story_fields import listed
from ...core.text_search import composed
from .folders import TYPED_IN, full_path, story_path

FAULT = "graph_fault"
"""The input of a Story node that says what does not fit it elsewhere in the graph; see `with_fault`."""

_STORY, _CHARACTERS = "StoryIdentityStory", "StoryIdentityCharacters"
_FIELDS = ("characters", "prompts", "style", "negative")
_TYPED = {
    "StoryIdentityCharacterPortraits": "character",
    "StoryIdentityIdentityDiscovery": "name",
    "StoryIdentityLoadIdentity": "rename",
    "StoryIdentityFaceFeatures": "name",
    "StoryIdentityCast": "name",
    "StoryIdentityReferenceConditioning": "name",
}
"""Per class of node, the widget that holds a character's name."""
_LOAD = "StoryIdentityLoadIdentity"
_TAKES_ANYBODY = {("StoryIdentityStoryCast", "identities"), ("StoryIdentityChooseTakes", "identities")}
"""Inputs that leave out identities of people who are not in the story."""


def check_typed_names(story: Story, graph: Mapping[str, Any]) -> None:
    """Refuse a graph in which a node names somebody whom its story does not have.

    Only a graph with one Story node is checked, and of it the nodes whose results meet the story's in some node.

    Args:
        story: What the Story node is about to give.
        graph: The graph as the host runs it: per id of a node its `class_type` and its `inputs`.

    Raises:
        ValueError: Naming the node, the widget's value and the story's characters.
    """
    known = {composed(character.name) for character in story.characters}
    stories = [key for key, node in graph.items() if node.get("class_type") == _STORY]
    if len(stories) != 1:
        return
    reached, nodes_after = _reached_from(stories[0], _followers(graph)), _followers(graph, without=_TAKES_ANYBODY)
    for key, node in graph.items():
        widget, name = _named_by(node)
        if not name or composed(name) in known:
            continue
        if reached & _reached_from(key, nodes_after):
            title = node.get("_meta", {}).get("title") or node["class_type"].removeprefix("StoryIdentity")
            people = listed(character.name for character in story.characters)
            raise ValueError(
                f"{title} (node {key}): {widget} is {quote(name)}, but the story has {people}. Correct it, or "
                "add a line for this character to the story."
            )


def check_characters(story: Story, graph: Mapping[str, Any]) -> None:
    """Refuse a graph whose frames show somebody whom its Characters node, not connected to Story, has otherwise or not.

    Only a graph with one Story node is checked, and Characters whose results meet the story's in some node.

    Args:
        story: What the Story node is about to give.
        graph: As `check_typed_names` takes it.

    Raises:
        ValueError: Naming the character, the node, and what to connect.
    """
    shown = dict.fromkeys(character for frame in story.frames for character in frame.cast)
    for key, text in _characters_apart(graph):
        try:
            people = {composed(each.name): each for each in typed_characters(text, with_pictures=True)}
        except ValueError:
            continue  # Characters itself refuses it
        for each in shown:
            there = people.get(composed(each.name))
            if there is None or (there.word, there.description) != (each.word, each.description):
                other = _described(there) if there else "no such person"
                raise ValueError(
                    f"{quote(each.name, 60)} is {_described(each)} in the story, but Characters (node {key}) has "
                    f"{other}. Connect Characters to character_list of Story and empty its field characters; a story "
                    "of a file has its own: connect story in place of Characters."
                )


def _described(character: Character) -> str:
    return quote(f"{character.word} | {character.description}", 200)


def unused_characters(graph: Mapping[str, Any]) -> list[str]:
    """A sentence if a graph has a Characters node, but its Story node takes its people from elsewhere."""
    kinds = [node.get("class_type") for node in graph.values()]
    stories = [node for node in graph.values() if node.get("class_type") == _STORY]
    if _CHARACTERS not in kinds or any("character_list" in story.get("inputs", {}) for story in stories):
        return []
    return [
        "This workflow has a Characters node, but the story has characters of its own. Connect Characters to "
        "character_list, so that both have the same people."
    ]


def with_fault(graph: Mapping[str, Any]) -> dict[str, Any]:
    """The graph as it was sent, with what does not fit its story at the Story node, which refuses it before the run.

    A node whose inputs are as before is not run again, so that Story alone would not notice that another node names
    somebody else now. What is known only during a run, such as a text that another node makes, Story checks then.
    """
    changed = dict(graph)
    for key, node in _nodes(graph):
        if node["class_type"] == _STORY:
            try:
                story = _written_story(graph, node["inputs"])
            except (ValueError, OSError):
                continue  # Story, or Characters, says what is wrong
            try:
                if story is not None:
                    check_typed_names(story, graph)
                    check_characters(story, graph)
            except ValueError as fault:
                changed[key] = {**node, "inputs": {**node["inputs"], FAULT: str(fault)}}
    return changed


def _written_story(graph: Mapping[str, Any], inputs: Mapping[str, Any]) -> Story | None:
    """The story of a Story node, if all of it is written in its widgets, in Characters, or in a file."""
    file, people = inputs.get("story_file"), inputs.get("character_list")
    fields = {name: inputs[name] for name in _FIELDS if isinstance(inputs.get(name), str)}
    if not isinstance(file, str) or len(fields) < len(_FIELDS):
        return None
    if file != TYPED_IN:
        return Story.load(story_path(file))
    if people is None:
        return Story.from_lines(**fields)
    source = graph.get(people[0], {}) if isinstance(people, list) and people else {}
    lines = source.get("inputs", {}).get("characters")
    if source.get("class_type") != _CHARACTERS or not isinstance(lines, str):
        return None
    return Story.from_lines(**fields, character_list=typed_characters(lines, with_pictures=True))


def _characters_apart(graph: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every Characters node, and its lines, that meets the one story without being connected to it."""
    stories = [key for key, node in graph.items() if node.get("class_type") == _STORY]
    if len(stories) != 1 or "character_list" in graph[stories[0]].get("inputs", {}):
        return
    after = _followers(graph)
    reached = _reached_from(stories[0], after)
    for key, node in graph.items():
        lines = node.get("inputs", {}).get("characters")
        if node.get("class_type") == _CHARACTERS and isinstance(lines, str) and reached & _reached_from(key, after):
            yield key, lines


def _nodes(graph: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The nodes of a graph that a program may have written in any way; none of one that is no graph."""
    if all(isinstance(node, Mapping) and isinstance(node.get("inputs"), Mapping) for node in graph.values()):
        yield from ((key, node) for key, node in graph.items() if "class_type" in node)


def _named_by(node: Mapping[str, Any]) -> tuple[str, str]:
    """The widget of a node that names a character, and the name; an empty name where there is none yet."""
    kind, inputs = node.get("class_type", ""), node.get("inputs", {})
    widget = _TYPED.get(kind, "")
    name = inputs.get(widget)
    if isinstance(name, str) and name.strip():
        return widget, name.strip()
    if kind == _LOAD and name == "" and isinstance(inputs.get("identity_file"), str):
        try:
            return "the name in identity_file", Identity.load(full_path("identities", inputs["identity_file"])).name
        except (ValueError, OSError):
            return "", ""  # the node says what is wrong when it runs
    return "", ""


def _followers(graph: Mapping[str, Any], without: Collection[tuple[str, str]] = ()) -> dict[str, set[str]]:
    """Per id of a node, the nodes that take its outputs, by other inputs than `without` names."""
    after: dict[str, set[str]] = {}
    for key, node in graph.items():
        for name, value in node.get("inputs", {}).items():
            if (node.get("class_type"), name) in without:
                continue
            if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str):
                after.setdefault(value[0], set()).add(key)
    return after


def _reached_from(start: str, nodes_after: Mapping[str, set[str]]) -> set[str]:
    """A node and all that depend on it."""
    reached, waiting = set(), [start]
    while waiting:
        key = waiting.pop()
        if key not in reached:
            reached.add(key)
            waiting += nodes_after.get(key, ())
    return reached
