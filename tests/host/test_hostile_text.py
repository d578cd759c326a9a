"""Text that cannot be encoded, or acts on a terminal, in the inputs of nodes: the server says so and goes on."""

import json

import pytest

from .server import Host, RunError

SURROGATE = "\ud83d"
STORY = {
    "class_type": "StoryIdentityStory",
    "inputs": {
        **{"story_file": "(typed in below)", "characters": "Mira | woman | a woman with red hair"},
        **{"prompts": "Mira waits", "style": "", "negative": ""},
    },
}


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def frames(text):
    shown = node("PreviewAny", source=["frames", 1])
    return {
        "story": STORY,
        "frames": node("StoryIdentityStoryFrames", story=["story", 0], frames=text, seed=0),
        "9": shown,
    }


def layout(names):
    masks = node("SolidMask", value=1.0, width=64, height=64)
    made = node("StoryIdentityLayoutFromMasks", masks=["mask", 0], names=f"Mira, {names}", dilate_px=0)
    return {"mask": masks, "layout": made, "9": node("MaskPreview", mask=["layout", 1])}


def saved(filename):
    """An identity of the toy world, saved under a name."""
    discovery = {"name": "Mira", "description": "", "rank": 1, "keep_ratio": 0.6, "iterations": 0}
    return {
        "toy": node("StoryIdentityToyWorldLoader"),
        "image": node("EmptyImage", width=64, height=64, batch_size=3, color=8_000_000),
        "identity": node(
            "StoryIdentityIdentityDiscovery",
            **{"portraits": ["image", 0], "photomaker": ["toy", 4], "rank_too_large": "lower it", **discovery},
        ),
        "9": node("StoryIdentitySaveIdentity", identity=["identity", 0], filename=filename, overwrite=False),
    }


HOSTILE = [SURROGATE, SURROGATE * 5_000, "\x1b[31mred\x07", "\u202etxet", "x" * 100_000]


@pytest.mark.parametrize(
    "workflow", [frames, layout, saved], ids=["Story Frames", "Layout from Masks", "Save Identity"]
)
@pytest.mark.parametrize("text", HOSTILE, ids=["surrogate", "surrogates", "escapes", "direction", "long"])
def test_a_later_prompt_still_runs(host: Host, workflow, text):
    if workflow is saved and not text.startswith(SURROGATE):
        pytest.skip("such a name leaves a file name")
    before = len(host.log())
    with pytest.raises(RunError) as refused:
        host.run(workflow(text), timeout_s=60)
    said = str(refused.value)
    assert "Traceback" not in said.split("\n")[0]
    first = said.partition("\n")[0]
    assert len(first) < 1500, len(first)
    json.dumps(said, ensure_ascii=False).encode()
    assert "\x1b" not in first
    assert "\u202e" not in first
    assert host.run(frames("1"))["9"]
    assert "--- Logging error ---" not in host.log()[before:]
