"""Widgets of nodes that get whole lists."""

from typing import Any


def first(value: Any) -> Any:
    """The value of a widget, which such a node gets as a list of one; None where it comes through a link."""
    return value[0] if isinstance(value, list | tuple) and value else value
