"""What version 0.1 could put into `start` and `keep_from_step` still passes the host's own validation of a graph."""

import asyncio

import execution
from comfy_extras.nodes_primitive import Int
from story_identity.nodes.sampling import RedenoiseNode

import nodes


class Sources:
    """A node that gives what Re-denoise takes."""

    RETURN_TYPES = ("MODEL", "CAST", "NOISY_LATENT_CACHE", "STORY_LAYOUT", "STRING")
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - the host's name
        return {"required": {}}


def problems(**changed):
    """What the host says of a graph of Re-denoise whose values or links are changed."""
    nodes.NODE_CLASS_MAPPINGS |= {"Sources": Sources, "Number": Int, "Redenoise": RedenoiseNode}
    links = {name: ["1", number] for number, name in enumerate(("model", "cast", "cache", "layout"))}
    settings = {**links, "start": 10, "max_kernel": 50, "cfg": 7.0, "mask_edge": "hard", **changed}
    graph = {
        "1": {"class_type": "Sources", "inputs": {}},
        "2": {"class_type": "Number", "inputs": {"value": 3}},
        "3": {"class_type": "Redenoise", "inputs": settings},
    }
    valid, errors, _ = asyncio.run(execution.validate_inputs("prompt", graph, "3", {}, []))
    assert valid == (not errors)
    return " ".join(f"{error['message']}: {error['details']}" for error in errors)


def check_steps_shares_and_links_of_both_kinds_are_taken():
    assert [problems(start=start) for start in (0, 10, 10.0, 0.2, 0, 999, ["2", 0])] == [""] * 7


def check_what_does_not_fit_is_said_under_the_node():
    assert "start is 1000" in problems(start=1000)
    assert "start is 1.5" in problems(start=1.5)
    assert "start is -1" in problems(start=-1)
    assert "convert" in problems(start="soon")
    assert 'start takes FLOAT, and the link into it gives "STRING"' in problems(start=["1", 4])
    assert 'layout takes STORY_LAYOUT, and the link into it gives "CAST"' in problems(layout=["1", 1])
    assert 'cfg takes FLOAT, and the link into it gives "INT"' in problems(cfg=["2", 0])
