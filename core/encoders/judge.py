"""A multimodal language model as a judge of a story's pictures, behind an endpoint that speaks OpenAI's chat protocol.

IdentityStory (section 4.2, table 2) has GPT-4o give every picture a score between 0 and 100 by three criteria. The
paper does not print its prompt, and shows the pictures of five methods at once; this prompt is ours, and shows those of
one story.
"""

import base64
import io
import json
import re
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from torch import Tensor

from ..quoting import printable, quote
from ..shapes import Float
from .folders import pil_images

TEXT_ALIGNMENT, CHARACTER_CONSISTENCY, IMAGE_QUALITY = "text_alignment", "character_consistency", "image_quality"
CRITERIA: Mapping[str, str] = {
    TEXT_ALIGNMENT: "how well the picture shows what its text says",
    CHARACTER_CONSISTENCY: "how surely each character of the picture, face above all, is the same person as in the "
    "other pictures",
    IMAGE_QUALITY: "how good the picture is as a picture: sharp, natural, without defects",
}
"""The paper's three criteria, and how the judge is told of them."""
INSTRUCTION = (
    "You judge the {count} pictures of one picture story. Its characters: {characters}. The text of every picture "
    "stands before it. Give every picture, independently of the others, a whole number from 0 (worst) to 100 (best) "
    "for each of these criteria:\n{criteria}\n"
    'Answer with JSON and nothing else, in this form: {{"frames": [{{"frame": 1, {example}}}, ...]}}, with one entry '
    "for each of the {count} pictures, in their order."
)
COMPLAINT = "That answer cannot be used: {problem} Answer again, with the JSON alone."
ATTEMPTS = 3
"""How often a story is shown before its ratings are reported as missing."""
_LONGEST_SIDE = 1024
_LONGEST_ANSWER = 2**20
_FENCED = re.compile(r"\s*```(?:json)?\s*\n(.*?)\n?```\s*", re.DOTALL)


class JudgeError(ValueError):
    """The endpoint cannot be used as it is: a wrong address, key or model."""


@dataclass(frozen=True)
class Judge:
    """An endpoint and a model of it.

    Args:
        address: Up to the version, such as https://host/v1; "/chat/completions" is added.
        model: As the endpoint calls it.
        key: Sent as a bearer token; none if empty. It is in no message and in no file.
        timeout_s: Longest wait for an answer, in seconds.
    """

    address: str
    model: str
    key: str = field(default="", repr=False)
    timeout_s: float = 300.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise JudgeError(f"The judge's address is {quote(self.address)}; it must begin with http:// or https://.")
        if parts.username or parts.password:
            raise JudgeError(
                "The judge's address has a user or a password in it; give the key by its variable instead."
            )
        if not self.model:
            raise JudgeError("Which model judges? Name it as the endpoint does.")

    @property
    def name(self) -> str:
        """What reports call it."""
        return f"{self.model} at {urlsplit(self.address).hostname}"

    def rate(
        self, texts: Sequence[str], characters: Sequence[str], images: Sequence[Float[Tensor, "_ _ 3"]]
    ) -> dict[str, list[float | None]]:
        """The ratings of every picture by each of `CRITERIA`, from 0 to 100.

        An answer that is not of the form asked for is asked for again, with what is wrong with it; so is one that does
        not come (a timeout, status 429 or 5xx). After `ATTEMPTS` all ratings of the story are None.

        Args:
            texts: What each picture is to show.
            characters: The characters' descriptions.
            images: In [0, 1].

        Raises:
            JudgeError: If the endpoint cannot be reached or refuses the request.
        """
        messages = [{"role": "user", "content": _content(texts, characters, images)}]
        for _ in range(ATTEMPTS):
            answer = self._ask(messages)
            if answer is None:
                continue
            found = read_answer(answer, len(images))
            if not isinstance(found, str):
                return found
            complaint = COMPLAINT.format(problem=found)
            messages = [
                messages[0],
                {"role": "assistant", "content": answer},
                {"role": "user", "content": complaint},
            ]
        return {key: [None] * len(images) for key in CRITERIA}

    def _ask(self, messages: Sequence[Mapping[str, Any]]) -> str | None:
        """The model's answer; None where there was none this time."""
        body = json.dumps({"model": self.model, "messages": messages, "temperature": 0}).encode()
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(f"{self.address.rstrip('/')}/chat/completions", body, headers)
        try:
            with _OPENER.open(request, timeout=self.timeout_s) as response:
                raw = response.read(_LONGEST_ANSWER + 1)
        except urllib.error.HTTPError as error:
            with error:
                said = printable(error.read(2000).decode("utf-8", "replace"), 300)
            if error.code == 429 or error.code >= 500:
                return None
            raise JudgeError(f"The judge ({self.name}) refuses the request with status {error.code}: {said}") from error
        except TimeoutError:
            return None
        except OSError as error:
            reason = printable(str(getattr(error, "reason", error)), 300)
            raise JudgeError(f"The judge ({self.name}) cannot be reached: {reason}") from error
        return _text_of(raw)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The key goes to the address that the user gave, and nowhere else."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def read_answer(text: str, count: int) -> dict[str, list[float | None]] | str:
    """The ratings in an answer, by criterion; or what is wrong with it, in a sentence.

    Args:
        text: The JSON alone, or in one code fence.
        count: How many pictures were shown.
    """
    fenced = _FENCED.fullmatch(text)
    try:
        content = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return "It is not JSON."
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or len(frames) != count:
        return f'It does not have "frames", a list of {count} entries.'
    found: dict[str, list[float | None]] = {key: [] for key in CRITERIA}
    for number, entry in enumerate(frames, start=1):
        if not isinstance(entry, dict) or entry.get("frame") != number:
            return f'Entry {number} of "frames" does not have "frame": {number}.'
        for key in CRITERIA:
            value = entry.get(key)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
                return f'"{key}" of frame {number} is not a number from 0 to 100.'
            found[key].append(float(value))
    return found


def instruction(count: int, characters: Sequence[str]) -> str:
    """What the judge is told before it sees the pictures."""
    example = ", ".join(f'"{key}": 0' for key in CRITERIA)
    criteria = "\n".join(f"- {key}: {meaning}" for key, meaning in CRITERIA.items())
    return INSTRUCTION.format(count=count, characters="; ".join(characters), criteria=criteria, example=example)


def _content(
    texts: Sequence[str], characters: Sequence[str], images: Sequence[Float[Tensor, "_ _ 3"]]
) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = [{"type": "text", "text": instruction(len(images), characters)}]
    for number, (text, image) in enumerate(zip(texts, pil_images(images), strict=True), start=1):
        image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
        held = io.BytesIO()
        image.save(held, format="JPEG", quality=92)
        content.append({"type": "text", "text": f"Picture {number}: {text}"})
        address = f"data:image/jpeg;base64,{base64.b64encode(held.getvalue()).decode()}"
        content.append({"type": "image_url", "image_url": {"url": address}})
    return content


def _text_of(raw: bytes) -> str | None:
    """The text of the first choice; None where the answer is no answer of this protocol."""
    try:
        found = json.loads(raw)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return None
    return found if isinstance(found, str) else None
