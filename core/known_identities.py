"""Identities by name for a frame, and whether a saved identity is the one that would be found again.

An identity that was found from text notes what it was found from (`FOUND_FROM` in its metadata): the words, the
settings, and digests of the models. Where all of it is as wanted, the saved identity is what a new search would give.
The name is not of it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from .identity import Identity
from .quoting import quote, quote_all
from .story import Frame
from .text_search import composed

FOUND_FROM = "found_from"
"""The key of an identity's metadata that says what it was found from, by the names of `differences`."""

DIGESTS = ("model", "text encoder", "VAE", "identity encoder", "pictures")
"""What is compared by a digest, which says nothing to a reader."""


def identities_of(frame: Frame, identities: Sequence[Identity]) -> list[Identity]:
    """The identities of a frame's cast, in the order in which the prompt names them.

    Args:
        frame: The frame.
        identities: Any number, those of people who are elsewhere included.

    Raises:
        ValueError: If somebody has no identity, or two.
    """
    found = []
    for character in frame.cast:
        own = [each for each in identities if composed(each.name) == composed(character.name)]
        if not own:
            there = quote_all(each.name for each in identities) or "nobody's"
            whose = quote(character.name)
            raise ValueError(
                f"{frame.label[0].upper()}{frame.label[1:]} shows {whose}, but there is no identity of this name. "
                f"There is {there}. Give {whose} a line in Characters, connect their identity, or correct its name "
                "with Load Identity."
            )
        if len(own) > 1:
            raise ValueError(
                f"Two identities are called {quote(character.name)}. Rename one with Load Identity, or disconnect it."
            )
        found += own
    return found


def identity_digest(identity: Identity) -> str:
    """A digest of what an identity brings into a picture: encoder, embedding and portraits, and not the name."""
    digest = hashlib.sha256(identity.encoder.encode())
    for tensor in (identity.embedding, identity.portraits):
        if tensor is not None:
            digest.update(f"\n{tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def differences(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """In which points a saved identity was found from something else, in words; empty if it fits.

    Args:
        saved: The note of the saved identity.
        wanted: What a new search would note.
    """
    found = []
    for key in dict.fromkeys([*wanted, *saved]):
        there, here = saved.get(key), wanted.get(key)
        if there == here:
            continue
        if key in DIGESTS:
            found.append(f"the {key} {'are others' if key == 'pictures' else 'is another'}")
        else:
            found.append(f"{key} is {quote(there)} there, {quote(here)} here")
    return found
