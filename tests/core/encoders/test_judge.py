"""A judge behind a local server: what is sent, which answers count, and what happens to those that do not."""

import base64
import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from story_identity.core.encoders.judge import ATTEMPTS, CRITERIA, Judge, JudgeError, instruction, read_answer

from tests.stand_ins.judge import good_answer, judge_server

TEXTS, PEOPLE = ("Mira on a beach", "Mira in the snow"), ("a woman with red hair",)
PICTURES = [torch.zeros(20, 30, 3), torch.ones(2000, 1000, 3)]
MISSING = {key: [None, None] for key in CRITERIA}


def rate(answers, key=""):
    with judge_server(answers) as (address, requests):
        return Judge(address, "some-model", key).rate(TEXTS, PEOPLE, PICTURES), requests


def test_ratings_by_criterion_and_what_was_sent():
    found, requests = rate([good_answer((90, 80, 70.5), (0, 100, 50))], key="secret")
    assert found == {
        "text_alignment": [90, 0], "character_consistency": [80, 100], "image_quality": [70.5, 50],
    }  # fmt: skip
    ((path, headers, body),) = requests
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert body["model"] == "some-model"
    first, *rest = body["messages"][0]["content"]
    assert first["text"] == instruction(2, PEOPLE)
    assert all(key in first["text"] for key in (*CRITERIA, *PEOPLE, "from 0 (worst) to 100 (best)"))
    assert [part["text"] for part in rest[::2]] == [f"Picture {n}: {text}" for n, text in enumerate(TEXTS, start=1)]
    sizes = []
    for part in rest[1::2]:
        kind, content = part["image_url"]["url"].split(",")
        assert kind == "data:image/jpeg;base64"
        sizes.append(Image.open(io.BytesIO(base64.b64decode(content))).size)
    assert sizes == [(30, 20), (512, 1024)]


def test_a_malformed_answer_is_asked_for_again_with_what_is_wrong():
    found, requests = rate(["I would say 90.", good_answer((1, 2, 3), (4, 5, 6))])
    assert found["text_alignment"] == [1, 4]
    again = requests[1][2]["messages"]
    assert [message["role"] for message in again] == ["user", "assistant", "user"]
    assert again[1]["content"] == "I would say 90."
    assert "It is not JSON" in again[2]["content"]


@pytest.mark.parametrize(
    "answer", ["no", (503, b"busy", {}), (429, b"slow down", {}), (200, b"[]", {}), (200, b'{"choices": []}', {})]
)
def test_ratings_are_missing_after_a_bounded_number_of_answers(answer):
    found, requests = rate([answer] * ATTEMPTS)
    assert found == MISSING
    assert len(requests) == ATTEMPTS


def test_a_late_answer_counts():
    found, _ = rate([(500, b"", {}), good_answer((1, 2, 3), (4, 5, 6))])
    assert found["image_quality"] == [3, 6]


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_refusal_is_an_error_at_once_and_does_not_have_the_key(status):
    with judge_server([(status, b"no such model", {})]) as (address, requests):
        with pytest.raises(JudgeError, match=rf"some-model at 127\.0\.0\.1\) refuses .* {status}: no such model") as no:
            Judge(address, "some-model", "secret").rate(TEXTS, PEOPLE, PICTURES)
        assert "secret" not in str(no.value)
    assert len(requests) == 1


def test_the_key_is_not_sent_on_to_where_an_endpoint_points():
    with judge_server([good_answer()]) as (elsewhere, seen):
        answers = [(302, b"", {"Location": f"{elsewhere}/chat/completions"})]
        with judge_server(answers) as (address, _), pytest.raises(JudgeError, match="status 302"):
            Judge(address, "some-model", "secret").rate(TEXTS, PEOPLE, PICTURES)
        assert not seen


def test_nobody_at_the_address():
    with judge_server([]) as (address, _):
        pass
    with pytest.raises(JudgeError, match="cannot be reached"):
        Judge(address, "some-model").rate(TEXTS, PEOPLE, PICTURES)


@pytest.mark.parametrize("address", ["", "host/v1", "file:///etc/passwd", "http://", "ftp://host"])
def test_what_is_no_address(address):
    with pytest.raises(JudgeError, match="must begin with http"):
        Judge(address, "some-model")


def test_a_key_in_the_address_and_a_missing_model_are_refused():
    with pytest.raises(JudgeError, match="by its variable"):
        Judge("https://user:secret@host/v1", "some-model")
    with pytest.raises(JudgeError, match="Which model"):
        Judge("https://host/v1", "")
    assert "secret" not in repr(Judge("https://host/v1", "some-model", "secret"))


def entry(**changes):
    return {"frame": 1, **dict.fromkeys(CRITERIA, 5), **changes}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([entry()], '"frames"'),
        ({"frames": []}, "a list of 1 entries"),
        ({"frames": [entry(), entry(frame=2)]}, "a list of 1 entries"),
        ({"frames": [entry(frame=2)]}, '"frame": 1'),
        ({"frames": [entry(image_quality="9")]}, '"image_quality" of frame 1'),
        ({"frames": [entry(image_quality=True)]}, '"image_quality" of frame 1'),
        ({"frames": [entry(image_quality=101)]}, '"image_quality" of frame 1'),
        ({"frames": [entry(text_alignment=float("nan"))]}, '"text_alignment" of frame 1'),
        ({"frames": [{"frame": 1}]}, '"text_alignment" of frame 1'),
    ],
)
def test_answers_of_another_form(content, problem):
    assert problem in read_answer(json.dumps(content), 1)


def test_one_code_fence_is_taken_off_and_words_around_it_are_not():
    text = good_answer((1, 2, 3))
    assert read_answer(f"```json\n{text}\n```", 1)["image_quality"] == [3]
    assert read_answer(f"Here you are:\n```json\n{text}\n```", 1) == "It is not JSON."


def test_the_documentation_shows_the_prompt_as_it_is():
    page = Path(__file__).parents[3] / "docs" / "scores.md"
    assert instruction(10, ["a woman with red hair", "a boy with black hair"]) in page.read_text(encoding="utf-8")
