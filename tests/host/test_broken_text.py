"""Half of a surrogate pair in a text field: one clear error, and the queue goes on (ComfyUI's log cannot print it)."""

import pytest
import torch
from story_identity.core.identity import Identity

from .server import Host, RunError


def saving(filename: object) -> dict:
    """A saved identity under another file name; `text` comes through a link."""
    node = "StoryIdentity{}Identity".format
    return {
        "text": {"class_type": "PrimitiveString", "inputs": {"value": "\ud800"}},
        "load": {"class_type": node("Load"), "inputs": {"identity_file": "Mira.safetensors", "rename": ""}},
        "save": {
            "class_type": node("Save"),
            "inputs": {"identity": ["load", 0], "filename": filename, "overwrite": True},
        },
    }


@pytest.mark.parametrize("filename", ["\ud800", ["text", 0]], ids=["typed in", "through a link"])
def test_a_file_name_that_cannot_be_is_refused_and_the_queue_goes_on(host: Host, filename: object) -> None:
    identity = Identity("Mira", "", "photomaker-v1", torch.ones(8))
    identity.save(host.models_dir / "identities" / "Mira.safetensors")
    with pytest.raises(RunError, match="half of a surrogate pair"):
        host.run(saving(filename), timeout_s=60)
    host.run(saving("fine"), timeout_s=60)
    assert (host.models_dir / "identities" / "fine.safetensors").is_file()
