"""What the nodes look like that the workflows use: their sockets and widgets, as node_schemas.json describes them.

Also what the workflows are made of: a node with its values, and a subgraph.
"""

from functools import cache
from typing import NamedTuple

from .schemas import PREFIX, Json, read_schemas

WIDGETS = {"BOOLEAN", "COMBO", "FLOAT", "INT", "STRING"}
SCHEMAS = read_schemas()
BLANK = {"STRING": {"default": ""}}
"""What the editor begins with where the node names no default."""


class Kind(NamedTuple):
    """One kind of node; sockets, widgets and outputs are entries of node_schemas.json, in the editor's order."""

    id: str
    is_ours: bool
    sockets: tuple[Json, ...]
    widgets: tuple[Json, ...]
    outputs: tuple[Json, ...]


NOTE = Kind("MarkdownNote", False, (), ({"name": "text", "type": "STRING", "multiline": True, "default": ""},), ())
"""A node of the editor alone, of which ComfyUI does not know."""


@cache
def kind(name: str) -> Kind:
    """The node of this name: an id of ComfyUI's, or one of ours without the prefix.

    Raises:
        ValueError: If node_schemas.json does not have it.
    """
    if name == NOTE.id:
        return NOTE
    nodes = SCHEMAS["nodes"]
    found = next((each for each in (PREFIX + name, name) if each in nodes), None)
    if found is None:
        raise ValueError(
            f"node_schemas.json has no node {name}; add it to STOCK in schemas.py and write the file again"
        )
    inputs = nodes[found]["inputs"]
    widgets = [BLANK.get(each["type"], {}) | each for each in inputs if _is_widget(each)]
    sockets = tuple(each for each in inputs if not _is_widget(each))
    return Kind(found, found.startswith(PREFIX), sockets, tuple(widgets), tuple(nodes[found]["outputs"]))


def _is_widget(spec: Json) -> bool:
    return spec["type"] in WIDGETS and not spec.get("socket")


def check_value(spec: Json, value: object) -> None:
    """Refuse what the widget does not take.

    Raises:
        ValueError: If it is another type, none of the options, or out of range.
    """
    types = {"BOOLEAN": bool, "FLOAT": float, "INT": int}
    if type(value) is not types.get(spec["type"], str):
        raise ValueError(f"{spec['name']} takes {spec['type']}, not {value!r}")
    if value not in spec.get("options", [value]):
        raise ValueError(f"{spec['name']} is one of {', '.join(spec['options'])}, not {value!r}")
    if isinstance(value, int | float) and not spec.get("min", value) <= value <= spec.get("max", value):
        raise ValueError(f"{spec['name']} is {spec['min']} to {spec['max']}, not {value!r}")


class Node(NamedTuple):
    """A node of a graph; `links` has, for each input tied to something, the key and the output it comes from."""

    key: str
    kind: Kind
    links: dict[str, str]
    widgets: Json
    title: str
    width: int
    height: int
    inside: "Folded | None" = None


class Folded(NamedTuple):
    """A subgraph; see `fold`."""

    id: str
    name: str
    about: str
    columns: list[list[Node]]
    takes: list[str]
    gives: dict[str, str]
    shows: list[str]
