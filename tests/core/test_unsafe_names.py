"""Messages stay short and safe to print, whatever names and words they quote."""

import unicodedata
from collections.abc import Callable, Sequence

import pytest
import torch
from story_identity.core.adapter_file import adapter_of
from story_identity.core.attention_layout import attention_layout
from story_identity.core.automask import subject_masks
from story_identity.core.detectors import Detections
from story_identity.core.latent_cache import CacheReplay
from story_identity.core.layout import Layout
from story_identity.core.layout_search import find_layout
from story_identity.core.reference_assignment import AssignedReferences, assign_references
from story_identity.core.shuffle import deal_references
from story_identity.core.story import Character, Story

from tests.core.test_reference_assignment import features
from tests.stand_ins.ip_adapters import nested

UNSAFE = ["\ud83d", "Ada\x1b[31m\r\n", "Ada\u202e\u2028", "Mira" * 5000]
SETTINGS = {"dilate_px": 0, "skip_missing": False}


def attention(maps: dict[str, torch.Tensor], names: list[str]) -> Layout:
    return attention_layout(maps, names, (8, 8), "frame 1", method=0.5, **SETTINGS)


def search(found: Detections, name: str, word: str) -> Layout:
    thresholds = {"box_threshold": 0.3, "text_threshold": 0.3}
    picture = torch.zeros(8, 8, 3)
    no_mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    return find_layout(
        lambda *_: found, lambda *_: no_mask, picture, [(name, word)], "frame 1", **thresholds, **SETTINGS
    )


def two_sets(name: str) -> Sequence[AssignedReferences]:
    told = Story((Character(name, "woman", "a woman"),), ())
    injector = adapter_of(nested("plus-face"), "plus-face.safetensors").injector().requires_grad_(False)
    return assign_references(injector, [(name, features(1))] * 2, told, "shuffled", 0, "the adapter")


NOTHING = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0))
A_BOX = Detections(torch.tensor([[1.0, 1, 5, 5]]), torch.ones(1), torch.ones(1))
MANY = [f"{number}" for number in range(100)]

REFUSED: dict[str, Callable[[str], object]] = {
    "maps of others": lambda text: attention(
        {f"{text}{n}": torch.rand(4, 4) for n in MANY}, [f"{n}{text}" for n in MANY]
    ),
    "nothing in the maps": lambda text: attention({text: torch.zeros(4, 4)}, [text]),
    "no box": lambda text: search(NOTHING, text, text),
    "no mask": lambda text: search(A_BOX, text, "woman"),
    "a name twice": lambda text: Layout([text, text], torch.zeros(2, 8, 8, dtype=torch.bool)),
    "names twice": lambda text: Layout([text, *MANY, text], torch.zeros(102, 8, 8, dtype=torch.bool)),
    "two sets of pictures": two_sets,
    "no such mode": lambda text: deal_references(1, 1, text, torch.Generator()),
    "no such threshold": lambda text: subject_masks(torch.zeros(1, 8, 8), text),
    "no such call": lambda text: CacheReplay([], text).answer(1.0),
}


@pytest.mark.parametrize("text", UNSAFE, ids=["surrogate", "escapes", "direction", "long"])
@pytest.mark.parametrize("refused", REFUSED.values(), ids=REFUSED)
def test_a_refusal_is_short_and_safe(refused, text):
    with pytest.raises(ValueError, match=r"\.$") as raised:
        refused(text)
    message = str(raised.value)
    assert len(message.encode()) < 1900, len(message)  # 1.5 kB of them quoted
    assert {unicodedata.category(each) for each in message}.isdisjoint({"Cc", "Cs", "Zl", "Zp"})
    assert "\u202e" not in message
