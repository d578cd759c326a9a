"""Characters' names that are typed into nodes of a graph, checked against its story before anything is sampled."""

from collections.abc import Collection, Mapping
from typing import Any

from ...core.identity import Identity
from ...core.quoting import quote
from ...core.story import Story
from ...core.story_fields import listed
from ...core.text_search import composed
from .folders import full_path

_STORY = "StoryIdentityStory"
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


def unused_characters(graph: Mapping[str, Any]) -> list[str]:
    """A sentence if a graph has a Characters node, but its Story node takes its people from elsewhere."""
    kinds = [node.get("class_type") for node in graph.values()]
    stories = [node for node in graph.values() if node.get("class_type") == _STORY]
    if "StoryIdentityCharacters" not in kinds or any("character_list" in story.get("inputs", {}) for story in stories):
        return []
    return [
        "This workflow has a Characters node, but the story has characters of its own. Connect Characters to "
        "character_list, so that both have the same people."
    ]


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
