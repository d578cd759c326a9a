"""Laws of attention shared across frames, and of the bank for long stories."""

import math

import pytest
import torch
from story_identity.core.attention import (
    SubjectPositions,
    attend_across_frames,
    plain_attention,
    shared_subject_attention,
)
from story_identity.core.subject_bank import SubjectBank

from tests.closeness import assert_close, largest_difference

N, H, W, HEADS, D = 3, 7, 11, 5, 3
L, E = H * W, HEADS * D


def qkv(seed: int = 0, n: int = N, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple((2 * torch.randn(n, L, E, generator=generator, dtype=torch.float64)).to(dtype) for _ in range(3))


def people(n: int = N) -> torch.Tensor:
    """A subject of another size in every frame, ragged; the second frame has nobody."""
    generator = torch.Generator().manual_seed(7)
    share = torch.tensor([0.31, 0.0, 0.57, 0.13, 0.44])[:n, None]
    return torch.rand(n, L, generator=generator) < share


def cast(subject: torch.Tensor) -> torch.Tensor:
    """Labels: characters 0 and 1 by the left and the right part of the grid, -1 where nobody is."""
    right = (torch.arange(L) % W >= 4).long()
    return torch.where(subject, right, -1)


def dense(q, k, v, subject, characters=None):
    """The same attention the straightforward way: all tokens of all frames, and a mask of who sees whom."""
    n = len(q)
    frame = torch.arange(n).repeat_interleave(L)
    visible = subject.flatten()[None]
    if characters is not None:
        visible = visible & (characters.flatten()[:, None] == characters.flatten()[None])
    allowed = (frame[:, None] == frame[None]) | visible
    joined = (tensor.view(n * L, HEADS, D).transpose(0, 1) for tensor in (q, k, v))
    q, k, v = joined
    scores = (q @ k.transpose(1, 2) / math.sqrt(D)).masked_fill(~allowed, -torch.inf)
    return (scores.softmax(dim=-1) @ v).transpose(0, 1).reshape(n, L, E)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_strength_zero_and_nobody_are_plain_attention_bit_for_bit(dtype):
    q, k, v = qkv(dtype=dtype)
    plain = plain_attention(q, k, v, HEADS)
    nobody = torch.zeros(N, L, dtype=torch.bool)
    assert torch.equal(shared_subject_attention(q, k, v, people(), HEADS, strength=0.0), plain)
    assert torch.equal(shared_subject_attention(q, k, v, nobody, HEADS), plain)
    assert torch.equal(shared_subject_attention(q, k, v, nobody, HEADS, 0.5, cast(nobody)), plain)
    assert not torch.equal(shared_subject_attention(q, k, v, people(), HEADS), plain)


def test_strength_zero_and_nobody_are_one_call_for_all_frames():
    shapes = []

    def attend(q, k, v, heads):
        shapes.append((tuple(q.shape), tuple(k.shape)))
        return plain_attention(q, k, v, heads)

    shared_subject_attention(*qkv(), people(), HEADS, 0, attend=attend)
    shared_subject_attention(*qkv(), torch.zeros(N, L, dtype=torch.bool), HEADS, attend=attend)
    assert shapes == [((N, L, E), (N, L, E))] * 2


def test_plain_attention_is_the_softmax_written_out():
    q, k, v = qkv()
    separate = [dense(*(tensor[f : f + 1] for tensor in (q, k, v)), torch.ones(1, L, dtype=torch.bool)) for f in (0, 1)]
    assert_close(plain_attention(q, k, v, HEADS)[:2], torch.cat(separate), 1e-12)


def test_a_frame_alone_is_plain_attention():
    q, k, v = qkv(n=1)
    alone = shared_subject_attention(q, k, v, torch.ones(1, L, dtype=torch.bool), HEADS)
    assert torch.equal(alone, plain_attention(q, k, v, HEADS))


def test_all_ones_is_attention_over_the_joined_frames():
    q, k, v = qkv()
    joined = plain_attention(*(tensor.reshape(1, N * L, E) for tensor in (q, k, v)), HEADS).view(N, L, E)
    ones = torch.ones(N, L, dtype=torch.bool)
    assert_close(shared_subject_attention(q, k, v, ones, HEADS), joined, 1e-12)
    everybody = torch.zeros(N, L, dtype=torch.long)
    assert_close(shared_subject_attention(q, k, v, ones, HEADS, 1.0, everybody), joined, 1e-12)


@pytest.mark.parametrize("n", [3, 5])
@pytest.mark.parametrize("labelled", [False, True])
def test_it_equals_attention_under_a_dense_mask(n, labelled):
    q, k, v = qkv(n, n)
    subject = people(n)
    characters = cast(subject) if labelled else None
    result = shared_subject_attention(q, k, v, subject, HEADS, characters=characters)
    assert_close(result, dense(q, k, v, subject, characters), 1e-12)
    assert largest_difference(result, plain_attention(q, k, v, HEADS)) > 1e-3


def test_a_query_sees_its_own_label_whether_or_not_it_is_subject():
    """The labels alone say who looks at whom; the subject mask says what may be looked at."""
    q, k, v = qkv()
    subject = people()
    generous = (torch.arange(L) % 3).expand(N, L)
    result = shared_subject_attention(q, k, v, subject, HEADS, characters=generous)
    assert_close(result, dense(q, k, v, subject, generous), 1e-12)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.float16, 5e-3), (torch.bfloat16, 4e-2)])
def test_other_dtypes_agree_with_float64_and_are_kept(dtype, error):
    q, k, v = qkv(dtype=dtype)
    for characters in (None, cast(people())):
        result = shared_subject_attention(q, k, v, people(), HEADS, 1.0, characters)
        assert result.dtype == dtype
        assert_close(result, dense(*(t.double() for t in (q, k, v)), people(), characters), error)


def test_strength_blends_with_plain_attention():
    q, k, v = qkv()
    plain, shared = plain_attention(q, k, v, HEADS), shared_subject_attention(q, k, v, people(), HEADS)
    result = shared_subject_attention(q, k, v, people(), HEADS, strength=0.3)
    assert_close(result, 0.7 * plain + 0.3 * shared, 1e-12)


@pytest.mark.parametrize("labelled", [False, True])
def test_permuting_the_frames_permutes_the_result(labelled):
    q, k, v = qkv(n=5)
    subject = people(5)
    characters = cast(subject) if labelled else None
    order = torch.tensor([3, 0, 4, 1, 2])
    result = shared_subject_attention(q, k, v, subject, HEADS, 0.8, characters)
    permuted = shared_subject_attention(
        q[order], k[order], v[order], subject[order], HEADS, 0.8, characters[order] if labelled else None
    )
    assert_close(permuted, result[order], 1e-12)


def reach(subject: torch.Tensor, characters: torch.Tensor | None, f: int, rows: torch.Tensor) -> torch.Tensor:
    """Which tokens, of all frames, the result at some tokens of frame f depends on, by gradients of k and v."""
    q, k, v = qkv()
    k.requires_grad_()
    v.requires_grad_()
    shared_subject_attention(q, k, v, subject, HEADS, 0.9, characters)[f, rows].square().sum().backward()
    assert k.grad is not None
    assert v.grad is not None
    return (k.grad != 0).any(dim=2) | (v.grad != 0).any(dim=2)


def test_the_background_of_a_frame_never_reaches_another():
    subject = people()
    for f in range(N):
        reached = reach(subject, None, f, torch.arange(L))
        expected = subject.clone()
        expected[f] = True
        assert torch.equal(reached, expected)


def test_nothing_flows_from_one_character_to_another():
    subject = people()
    characters = cast(subject)
    for label in (-1, 0, 1):
        reached = reach(subject, characters, 0, (characters[0] == label).nonzero().squeeze(1))
        expected = characters == label if label >= 0 else torch.zeros(N, L, dtype=torch.bool)
        expected[0] = True
        assert torch.equal(reached, expected)
        assert expected[2].any() == (label >= 0)


def test_one_number_by_hand():
    """Two frames of two tokens, one head of width 1; only token 1 of frame 1 is a subject.

    Token 0 of frame 0 has query 1 and sees keys 0, ln 2 and, elsewhere, ln 5: weights 1/8, 2/8, 5/8 of values 8, 4, 16.
    """
    ln2, ln5 = math.log(2), math.log(5)
    q = torch.ones(2, 2, 1, dtype=torch.float64)
    k = torch.tensor([[[0.0], [ln2]], [[7.0], [ln5]]], dtype=torch.float64)
    v = torch.tensor([[[8.0], [4.0]], [[-100.0], [16.0]]], dtype=torch.float64)
    subject = torch.tensor([[False, False], [False, True]])
    result = shared_subject_attention(q, k, v, subject, heads=1)
    assert result[0, 0].item() == pytest.approx(12.0)
    blended = shared_subject_attention(q, k, v, subject, heads=1, strength=0.25)
    assert blended[0, 0].item() == pytest.approx(0.75 * 16 / 3 + 0.25 * 12)


@pytest.mark.parametrize("labelled", [False, True])
def test_the_hosts_attention_is_called_on_own_and_foreign_keys_without_a_mask(labelled):
    q, k, v = qkv()
    subject = people()
    characters = cast(subject) if labelled else None
    calls = []

    def attend(q, k, v, heads):
        calls.append((q.shape[1], k.shape[1]))
        return plain_attention(q, k, v, heads)

    shared_subject_attention(q, k, v, subject, HEADS, 1.0, characters, attend=attend)
    if labelled:
        count = [[int((characters[f] == label).sum()) for label in (-1, 0, 1)] for f in range(N)]
        assert calls == [
            *((count[0][i + 1], L + (count[2][i + 1] if i >= 0 else 0)) for i in (-1, 0, 1)),
            (L, L),  # nobody in frame 1, so its tokens are all background
            *((count[2][i + 1], L + (count[0][i + 1] if i >= 0 else 0)) for i in (-1, 0, 1)),
        ]
    else:
        sizes = subject.sum(dim=1).tolist()
        assert calls == [(L, L + sum(sizes) - sizes[f]) for f in range(N)]


def test_a_frame_whose_people_are_nowhere_else_is_attended_to_in_one_call():
    subject = people()
    subject[1] = subject[0]
    alone = torch.where(subject, torch.tensor([0, 1, 0])[:, None], -1)
    calls = []

    def attend(q, k, v, heads):
        calls.append((q.shape[1], k.shape[1]))
        return plain_attention(q, k, v, heads)

    q, k, v = qkv()
    result = shared_subject_attention(q, k, v, subject, HEADS, characters=alone, attend=attend)
    assert_close(result, dense(q, k, v, subject, alone), 1e-12)
    assert len(calls) == 5
    assert calls[2] == (L, L)


def test_positions_are_found_once_and_serve_every_layer(monkeypatch):
    subject = people()
    positions = SubjectPositions.of(subject, cast(subject))

    def refuse(*_):
        raise AssertionError("a layer searched the mask again")

    monkeypatch.setattr(torch.Tensor, "nonzero", refuse)
    for seed in (0, 1):
        q, k, v = qkv(seed)
        result = attend_across_frames(q, k, v, HEADS, positions, positions.gather(k, v))
        assert_close(result, dense(q, k, v, subject, cast(subject)), 1e-12)


@pytest.mark.parametrize("labelled", [False, True])
def test_frames_read_from_a_bank_equal_the_joint_run(labelled):
    """Three anchors together, then two frames one at a time: each as if it had run with the anchors alone."""
    q, k, v = qkv(n=5)
    subject = people(5)
    characters = cast(subject) if labelled else None
    anchors = SubjectPositions.of(subject[:3], None if characters is None else characters[:3])
    bank = SubjectBank(torch.float64)
    bank.put(0, "layer", anchors.gather(k[:3], v[:3]))
    held = bank.nbytes
    assert held == 2 * int(subject[:3].sum()) * E * 8
    for f in (3, 4):
        together = torch.tensor([0, 1, 2, f])
        joint = shared_subject_attention(
            q[together],
            k[together],
            v[together],
            subject[together] & (together < 3)[:, None],
            HEADS,
            0.9,
            characters[together] if labelled else None,
        )
        result = shared_subject_attention(
            q[f : f + 1],
            k[f : f + 1],
            v[f : f + 1],
            subject[f : f + 1],
            HEADS,
            0.9,
            characters[f : f + 1] if labelled else None,
            further=bank.get(0, "layer", "cpu", torch.float64),
        )
        assert_close(result[0], joint[3], 1e-12)
        assert largest_difference(result, plain_attention(q[f : f + 1], k[f : f + 1], v[f : f + 1], HEADS)) > 1e-3
    assert bank.nbytes == held


def test_frames_in_one_batch_see_each_other_and_the_bank():
    q, k, v = qkv(n=5)
    subject = people(5)
    anchors = SubjectPositions.of(subject[:3])
    result = shared_subject_attention(q[3:], k[3:], v[3:], subject[3:], HEADS, further=anchors.gather(k[:3], v[:3]))
    assert_close(result, dense(q, k, v, subject)[3:], 1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_bank_keeps_copies_in_its_dtype(dtype):
    _, k, v = qkv(dtype=torch.float32)
    tokens = SubjectPositions.of(people()).gather(k, v)
    bank = SubjectBank(dtype)
    bank.put(("step", 4), ("output", 5, "cond"), tokens)
    before = tokens.k.clone()
    tokens.k.zero_()
    found = bank.get(("step", 4), ("output", 5, "cond"), "cpu", torch.float32)
    assert torch.equal(found.k, before.to(dtype).float())
    assert found.bounds == tokens.bounds
    assert bank.nbytes == 2 * int(people().sum()) * E * dtype.itemsize


def test_an_empty_record_leaves_later_frames_plain():
    q, k, v = qkv()
    bank = SubjectBank()
    bank.put(0, 0, SubjectPositions.of(torch.zeros(N, L, dtype=torch.bool)).gather(k, v))
    empty = bank.get(0, 0, "cpu", torch.float64)
    for characters in (None, cast(people())[:1]):
        result = shared_subject_attention(q[:1], k[:1], v[:1], people()[:1], HEADS, 1.0, characters, further=empty)
        assert torch.equal(result, plain_attention(q[:1], k[:1], v[:1], HEADS))


def test_what_a_bank_cannot_do_is_refused():
    _, k, v = qkv()
    tokens = SubjectPositions.of(people()).gather(k, v)
    bank = SubjectBank()
    bank.put(3, "middle", tokens)
    assert (3, "middle") in bank
    assert (4, "middle") not in bank
    with pytest.raises(ValueError, match="already holds step 3, layer middle"):
        bank.put(3, "middle", tokens)
    with pytest.raises(ValueError, match="nothing for step 4, layer middle"):
        bank.get(4, "middle", "cpu", torch.float32)
    tokens.v[0, 0] = 1e5
    with pytest.raises(ValueError, match="not finite in torch.float16"):
        bank.put(4, "middle", tokens)
    SubjectBank(torch.bfloat16).put(4, "middle", tokens)


def test_labelled_and_unlabelled_tokens_do_not_meet():
    q, k, v = qkv()
    anchors = SubjectPositions.of(people()).gather(k, v)
    with pytest.raises(ValueError, match="use the same setting for both"):
        shared_subject_attention(q, k, v, people(), HEADS, 1.0, cast(people()), further=anchors)


def test_inputs_stay():
    q, k, v = qkv()
    subject = people()
    before = [tensor.clone() for tensor in (q, k, v, subject)]
    shared_subject_attention(q, k, v, subject, HEADS, 0.5, cast(subject))
    assert all(torch.equal(a, b) for a, b in zip((q, k, v, subject), before, strict=True))


def test_what_does_not_fit_is_refused():
    q, k, v = qkv()
    subject = people()
    with pytest.raises(ValueError, match=r"q, k and v have shapes \(3, 77, 15\), \(3, 76, 15\)"):
        shared_subject_attention(q, k[:, 1:], v, subject, HEADS)
    with pytest.raises(ValueError, match=r"masks are for \(frames, tokens\) = \(2, 77\), but q has \(3, 77\)"):
        shared_subject_attention(q, k, v, subject[1:], HEADS)
    with pytest.raises(ValueError, match=r"labels have shape \(3, 76\), the subject mask \(3, 77\)"):
        shared_subject_attention(q, k, v, subject, HEADS, characters=cast(subject)[:, 1:])
    for heads in (4, 0):
        with pytest.raises(ValueError, match=f"{heads} heads do not divide a width of 15"):
            shared_subject_attention(q, k, v, subject, heads)
    for strength in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match="it must be from 0"):
            shared_subject_attention(q, k, v, subject, HEADS, strength)
