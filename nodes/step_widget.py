"""A widget for a step of a schedule or a share of its steps, which takes whole numbers over a link as well."""

from comfy_api.latest import io
from comfy_execution.validation import validate_node_input

from ..core.quoting import printable, quote
from ..core.redenoise import first_step

_LONGEST = 1000
"""Steps of the longest schedule that a node offers."""


def step_or_share(name: str, tooltip: str) -> io.Float.Input:
    """The widget; below 1 it is a share of the steps, see `core.redenoise.first_step`."""
    return io.Float.Input(name, default=0.2, min=0.0, max=_LONGEST - 1.0, step=0.05, round=0.001, tooltip=tooltip)


def step_problem(name: str, value: object) -> str | None:
    """What is wrong with a number, for the node to show; of what is no number the host says so itself.

    A value that another node will give is None here.
    """
    try:
        if isinstance(value, int | float):
            first_step(value, _LONGEST, name)
    except ValueError as error:
        return printable(str(error))
    return None


def link_problem(node: type[io.ComfyNode], name: str, input_types: dict[str, str] | None) -> str | None:
    """What is wrong with the links into a node, whose input `name` was INT in version 0.1 and still takes it.

    Args:
        node: The node; the host leaves the links to it once its `validate_inputs` asks for their types.
        name: The widget of `step_or_share`.
        input_types: The type of each linked input, as the host gives them.
    """
    for each in node.define_schema().inputs:
        given, taken = (input_types or {}).get(each.id), each.get_io_type()
        if given is not None and not validate_node_input(given, f"{taken},INT" if each.id == name else taken):
            return f"{each.id} takes {taken}, and the link into it gives {quote(given)}: connect another output."
    return None
