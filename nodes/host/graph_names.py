"""Characters' names that are typed into nodes of a graph, checked against its story before anything is sampled."""

from collections.abc import Mapping
from typing import Any

from ...core.quoting import quote
from ...core.story import Story
from ...core.story_fields import listed
from ...core.text_search import composed

_STORY = "StoryIdentityStory"
_TYPED = {
    "StoryIdentityCharacterPortraits": "character",
    "StoryIdentityIdentityDiscovery": "name",
    "StoryIdentityLoadIdentity": "rename",
    "StoryIdentityFaceFeatures": "name",
    "StoryIdentityCast": "name",
}
"""Per class of node, the widget that holds a character's name."""


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
    nodes_after = _followers(graph)
    reached = _reached_from(stories[0], nodes_after)
    for key, node in graph.items():
        widget = _TYPED.get(node.get("class_type", ""), "")
        name = node.get("inputs", {}).get(widget)
        if not isinstance(name, str) or not name.strip() or composed(name.strip()) in known:
            continue
        if reached & _reached_from(key, nodes_after):
            title = node.get("_meta", {}).get("title") or node["class_type"].removeprefix("StoryIdentity")
            people = listed(character.name for character in story.characters)
            raise ValueError(
                f"{title} (node {key}): {widget} is {quote(name.strip())}, but the story has {people}. Correct it, or "
                "add a line for this character to the story."
            )


def _followers(graph: Mapping[str, Any]) -> dict[str, set[str]]:
    """Per id of a node, the nodes that take its outputs."""
    after: dict[str, set[str]] = {}
    for key, node in graph.items():
        for value in node.get("inputs", {}).values():
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
