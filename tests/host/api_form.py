"""A workflow as the editor saves it (version 0.4), in the form that ComfyUI's /prompt takes.

The editor does this in the browser; here it is strict, so that a workflow which no longer fits its nodes is an error
that names the node instead of a value in the wrong field.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from .flattening import flattened

Json = dict[str, Any]

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
SEEDS = {"seed", "noise_seed"}
UPLOADS = {"image_upload", "animated_image_upload", "video_upload"}
COMMENTS = {"Note", "MarkdownNote"}
SHOWS_ONLY = {"PreviewAny"}  # keeps what it shows among its values
GROWS = "COMFY_AUTOGROW_V3"  # as many inputs of one kind as are tied to something
MUTED, BYPASSED = 2, 4


class Origin(NamedTuple):
    """Where a link begins."""

    node: int | str
    slot: int


class Value(NamedTuple):
    """What a primitive node puts in place of a link."""

    value: Any


def to_api(ui_workflow: Json, object_info: Json) -> Json:
    """Convert a whole workflow; muted nodes, notes, reroutes and primitives are not in the result, and of
    subgraphs the nodes in them.

    Args:
        ui_workflow: The editor's JSON: nodes, links, `widgets_values` by position.
        object_info: What the host says of every node (`GET /object_info`), which gives these values their names.

    Raises:
        ValueError: If a node is unknown, a link leads nowhere, or values are missing or left over.
    """
    graph = _Graph(flattened(ui_workflow), object_info)
    return {str(node["id"]): graph.api_node(node) for node in graph.running()}


class _Graph:
    def __init__(self, ui_workflow: Json, object_info: Json):
        self.object_info = object_info
        self.nodes: dict[int | str, Json] = {node["id"]: node for node in ui_workflow["nodes"]}
        if len(self.nodes) != len(ui_workflow["nodes"]):
            raise ValueError("two nodes have the same id")
        self.links = {link[0]: link for link in ui_workflow["links"]}
        for link in self.links.values():
            self._check_link(link)

    def running(self) -> Iterator[Json]:
        """The nodes that the host is to run."""
        virtual = {*COMMENTS, "Reroute", "PrimitiveNode"}
        for node in self.nodes.values():
            if node["type"] in virtual or node.get("mode", 0) in (MUTED, BYPASSED):
                continue
            if node["type"] not in self.object_info:
                raise ValueError(f"{_name(node)}: ComfyUI has no node {node['type']}")
            yield node

    def api_node(self, node: Json) -> Json:
        info = self.object_info[node["type"]]
        known = known_inputs(info)
        inputs = _widget_values(node, known)
        for slot in node.get("inputs") or []:
            name = slot["name"]
            if slot.get("link") is None:
                continue
            if name not in known:
                raise ValueError(f"{_name(node)}: has no input {name!r}")
            inputs.pop(name, None)
            given = self._follow(slot["link"], node)
            if isinstance(given, Origin):
                inputs[name] = [str(given.node), given.slot]
            elif isinstance(given, Value):
                inputs[name] = given.value
        if missing := [name for name, _, _, needed in _inputs(info) if needed and name not in inputs]:
            raise ValueError(f"{_name(node)}: nothing is given for {', '.join(missing)}")
        ordered = {name: inputs[name] for name in known if name in inputs}
        return {"inputs": ordered, "class_type": node["type"], "_meta": {"title": node.get("title", node["type"])}}

    def _follow(self, link_id: int, node: Json) -> Origin | Value | None:
        """What arrives through a link, past reroutes and bypassed nodes; None where it comes from a muted one."""
        passed: set[int | str] = set()
        while True:
            if link_id not in self.links:
                raise ValueError(f"{_name(node)}: link {link_id} is not in the list of links")
            _, start, slot = self.links[link_id][:3]
            origin = self.nodes[start]
            if start in passed:
                raise ValueError(f"{_name(origin)}: leads back to itself")
            passed.add(start)
            if origin.get("mode", 0) == MUTED:
                return None
            if origin["type"] == "PrimitiveNode":
                return Value(origin["widgets_values"][0])
            if origin["type"] != "Reroute" and origin.get("mode", 0) != BYPASSED:
                return Origin(start, slot)
            onward = _passed_through(origin, slot)
            if onward is None:
                return None
            link_id = onward

    def _check_link(self, link: list[Any]) -> None:
        """Both ends of a link exist and know of it."""
        link_id, start, out_slot, end, in_slot, kind = link
        for node_id in (start, end):
            if node_id not in self.nodes:
                raise ValueError(f"link {link_id} ({kind}) is tied to node {node_id}, which is not there")
        outputs, inputs = self.nodes[start].get("outputs") or [], self.nodes[end].get("inputs") or []
        if out_slot >= len(outputs) or link_id not in (outputs[out_slot].get("links") or []):
            raise ValueError(f"{_name(self.nodes[start])}: its output {out_slot} does not know link {link_id}")
        if in_slot >= len(inputs) or inputs[in_slot].get("link") != link_id:
            raise ValueError(f"{_name(self.nodes[end])}: its input {in_slot} does not know link {link_id}")
        known = self.object_info.get(self.nodes[start]["type"])
        if known and out_slot >= len(known["output"]):
            raise ValueError(f"{_name(self.nodes[start])}: ComfyUI gives this node no output {out_slot}")


def _name(node: Json) -> str:
    title = node.get("title", node["type"])
    return f"node {node['id']} ({node['type']})" if title == node["type"] else f"node {node['id']} ({title})"


def known_inputs(info: Json) -> dict[str, tuple[Any, Json]]:
    """Every input in the order of the host, those that may grow included: its type (or options) and its settings."""
    return {name: (kind, settings) for name, kind, settings, _ in _inputs(info)}


def _inputs(info: Json) -> Iterator[tuple[str, Any, Json, bool]]:
    """Name, type, settings, and whether something must be given."""
    for part in ("required", "optional"):
        for name, (kind, *settings) in info["input"].get(part, {}).items():
            if kind != GROWS:
                yield name, kind, settings[0] if settings else {}, part == "required"
                continue
            template = settings[0]["template"]
            ((kind, *settings),) = template["input"]["required"].values()
            for number in range(template["max"]):
                needed = part == "required" and number < template["min"]
                yield f"{name}.{template['prefix']}{number}", kind, settings[0] if settings else {}, needed


def _widget_slots(specs: dict[str, tuple[Any, Json]]) -> Iterator[str | None]:
    """The names of the values in `widgets_values`, None for one that only the editor knows."""
    for name, (kind, settings) in specs.items():
        is_combo = isinstance(kind, list) or kind == "COMBO"
        if not (is_combo or kind in WIDGET_TYPES) or settings.get("forceInput"):
            continue
        yield name
        changes = settings.get("control_after_generate", kind == "INT" and name in SEEDS)
        if changes and (is_combo or kind == "INT"):
            yield None
        if any(settings.get(upload) for upload in UPLOADS):
            yield None


def _widget_values(node: Json, specs: dict[str, tuple[Any, Json]]) -> Json:
    slots = list(_widget_slots(specs))
    values = [] if node["type"] in SHOWS_ONLY else node.get("widgets_values") or []
    if not isinstance(values, list):
        raise ValueError(f"{_name(node)}: its widgets_values are not a list")
    uploads = sum(bool(settings.get(upload)) for _, settings in specs.values() for upload in UPLOADS)
    if len(values) == len(slots) - uploads and slots[-1:] == [None]:
        slots = slots[: len(values)]  # newer editors do not keep the upload button, which is the last one
    if len(values) != len(slots):
        names = ", ".join(name or "(editor only)" for name in slots) or "none"
        raise ValueError(f"{_name(node)}: has {len(values)} widget values, but ComfyUI asks for {len(slots)}: {names}")
    return {name: value for name, value in zip(slots, values, strict=True) if name is not None}


def _passed_through(node: Json, slot: int) -> int | None:
    """The link whose value leaves a reroute or a bypassed node at `slot`: the input there, else one of equal type.

    None where there is no such input, as for a bypassed loader, or nothing is tied to it.
    """
    inputs = node.get("inputs") or []
    if node["type"] == "Reroute":
        return inputs[0].get("link")
    kind = node["outputs"][slot]["type"]
    same = [each for each in inputs[slot : slot + 1] + inputs if each["type"] == kind]
    return same[0].get("link") if same else None
