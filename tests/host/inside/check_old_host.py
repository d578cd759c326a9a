"""A ComfyUI that is too old is told so, in its own log, by its own loader of custom nodes."""

import asyncio
import logging
import sys
import types
from contextlib import contextmanager

import setting

import nodes


@contextmanager
def version(number):
    """ComfyUI of this version, as far as a pack can tell."""
    real = sys.modules.get("comfyui_version")
    sys.modules["comfyui_version"] = types.ModuleType("comfyui_version")
    sys.modules["comfyui_version"].__version__ = number
    try:
        yield
    finally:
        del sys.modules["comfyui_version"]
        if real is not None:
            sys.modules["comfyui_version"] = real


def load():
    """Load the pack as the host does; whether it took it, and what it logged at or above WARNING."""
    messages = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logging.getLogger().addHandler(handler)
    try:
        return asyncio.run(nodes.load_custom_node(str(setting.REPOSITORY))), messages
    finally:
        logging.getLogger().removeHandler(handler)


def check_an_old_host_is_named_and_told_what_is_needed():
    for number in ("0.3.64", "0.13.9", "0.9"):
        with version(number):
            taken, messages = load()
        assert not taken, number
        assert len(messages) == 1, messages
        assert f"needs ComfyUI 0.14 or newer; this is {number}." in messages[0], messages


def check_a_host_that_is_new_enough_takes_the_pack_in_silence():
    for number in ("0.14.0", "0.31.0", "1.0.0", "2"):
        with version(number):
            assert load() == (True, []), number
