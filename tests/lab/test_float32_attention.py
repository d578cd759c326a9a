"""Attention in float32 on a processor: its values, its gradients, and that it ends with the block."""

import pytest
import torch
from story_identity.lab.float32_attention import Float32Attention
from torch.nn.functional import scaled_dot_product_attention

from tests.closeness import assert_close


def _rows(dtype: torch.dtype) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randn(2, 2, tokens, 8, generator=random, dtype=torch.float64).to(dtype) for tokens in (5, 7, 7)]


@pytest.mark.parametrize("mask", [None, torch.linspace(-2, 0, 7).expand(5, 7), torch.arange(7).expand(5, 7) < 3])
@pytest.mark.parametrize("by_name", [False, True])
def test_half_precision_is_rounded_only_after_attention(mask, by_name):
    q, k, v = (each.requires_grad_() for each in _rows(torch.bfloat16))
    half = mask.bfloat16() if mask is not None and mask.is_floating_point() else mask
    with torch.autocast("cpu", torch.bfloat16), Float32Attention():
        out = (
            scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=half)
            if by_name
            else scaled_dot_product_attention(q, k, v, half)
        )
    exact = [each.detach().float().requires_grad_() for each in (q, k, v)]
    wanted = scaled_dot_product_attention(*exact, half.float() if half is not mask else mask)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, wanted.bfloat16())
    out.sum().backward()
    wanted.sum().backward()
    for each, other in zip((q, k, v), exact, strict=True):
        assert each.grad.dtype == torch.bfloat16
        assert_close(each.grad.float(), other.grad, 2**-8)


def test_nothing_changes_outside_or_in_float32():
    rows = _rows(torch.float32)
    with Float32Attention():
        inside = scaled_dot_product_attention(*rows)
    assert torch.equal(inside, scaled_dot_product_attention(*rows))
    with torch.autocast("cpu", torch.bfloat16):
        assert scaled_dot_product_attention(*rows).dtype == torch.bfloat16
