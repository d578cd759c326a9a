"""The time and memory of attention shared across four frames, compared with ways to compute it without gathering.

Run from the repository: `python -m story_identity.lab.bench.attention`, with `--device cuda` where there is a GPU and
`--small` for a quick look. Shapes are those of SD1.5's finest layers (8 heads of 40) at latents of 64 x 64, 96 x 96 and
128 x 128, and a quarter of every frame is subject. All variants take turns in one run, so their ratios can be compared.
The goal: ours takes at most 1.15 times as long as plain attention with as many keys that need not be gathered.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read when torch is imported; else its profiler chats on stderr

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ...core.attention import SubjectPositions, attend_across_frames, plain_attention

FRAMES, HEADS, WIDTH = 4, 8, 40
SIDES = (64, 96, 128)
PLAIN, READY, OURS, JOINED, DENSE = "plain", "plain, as many keys", "ours", "joined in full", "joined, dense mask"

Work = Callable[[], Tensor]


def people(side: int) -> Tensor:
    """A quarter of every frame, at another place in each."""
    masks = torch.zeros(FRAMES, side, side, dtype=torch.bool)
    for f, mask in enumerate(masks):
        top, left = (f // 2) * (side // 2), (f % 2) * (side // 2)
        mask[top : top + side // 2, left : left + side // 2] = True
    return masks.flatten(1)


def attend_densely(q: Tensor, k: Tensor, v: Tensor, subject: Tensor) -> Tensor:
    """All frames as one, under a mask of who sees whom; building it is part of the work."""
    n, tokens, _ = q.shape
    allowed = subject.flatten()[None].repeat(n * tokens, 1)
    for start in range(0, n * tokens, tokens):
        allowed[start : start + tokens, start : start + tokens] = True
    q, k, v = (tensor.view(1, n * tokens, HEADS, WIDTH).transpose(1, 2) for tensor in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
    return out.transpose(1, 2).reshape(n, tokens, HEADS * WIDTH)


def variants(side: int, device: str) -> dict[str, Work]:
    dtype = torch.float32 if device == "cpu" else torch.float16
    generator = torch.Generator().manual_seed(0)
    subject = people(side)
    seen = side**2 + (FRAMES - 1) * int(subject[0].sum())
    q, k, v, ready_k, ready_v = (
        torch.randn(FRAMES, tokens, HEADS * WIDTH, generator=generator).to(device, dtype)
        for tokens in (side**2, side**2, side**2, seen, seen)
    )
    positions, subject = SubjectPositions.of(subject, device=device), subject.to(device)
    joined_q, joined_k, joined_v = (tensor.view(1, -1, HEADS * WIDTH) for tensor in (q, k, v))
    return {
        PLAIN: lambda: plain_attention(q, k, v, HEADS),
        READY: lambda: plain_attention(q, ready_k, ready_v, HEADS),
        OURS: lambda: attend_across_frames(q, k, v, HEADS, positions, positions.gather(k, v)),
        JOINED: lambda: plain_attention(joined_q, joined_k, joined_v, HEADS).view_as(q),
        DENSE: lambda: attend_densely(q, k, v, subject),
    }


def dense_mask_bytes(side: int, device: str) -> int:
    """The mask as bool, and as the numbers to be added that torch makes of it."""
    return (FRAMES * side**2) ** 2 * (1 + (4 if device == "cpu" else 2))


def free_bytes(device: str) -> int:
    if device == "cpu":
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return torch.cuda.mem_get_info(device)[0]


def peak_bytes(work: Work, device: str) -> int:
    """The most that the work holds at once, beyond its inputs; its result counts."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        record.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    return max(event["args"]["Total Allocated"] for event in events if event["name"] == "[memory]")


def seconds(work: Work, device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def measure(side: int, device: str, rounds: int) -> None:
    works = variants(side, device)
    print(f"\n{FRAMES} frames of {side} x {side} tokens, {HEADS} heads of {WIDTH}, a quarter subject, on {device}")
    if dense_mask_bytes(side, device) > 0.8 * free_bytes(device):
        del works[DENSE]
        print(f"{DENSE}: left out, its mask needs {dense_mask_bytes(side, device) / 2**30:.1f} GiB")
    else:
        print(f"ours and the dense mask differ by at most {float((works[OURS]() - works[DENSE]()).abs().max()):.1e}")
    peaks = {name: peak_bytes(work, device) for name, work in works.items()}  # warms up, too
    taken = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            taken[name].append(seconds(work, device))
    times = {name: statistics.median(each) for name, each in taken.items()}
    print(f"{'':22}{'seconds':>10}{'to plain':>10}{'MiB':>10}{'to plain':>10}")
    for name in works:
        memory = f"{peaks[name] / 2**20:10.1f}{peaks[name] / peaks[PLAIN]:10.2f}"
        print(f"{name:22}{times[name]:10.4f}{times[name] / times[PLAIN]:10.2f}{memory}")
    print(f"ours to plain on as many keys: {times[OURS] / times[READY]:.2f} (goal: 1.15 or less)")


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and peak memory of attention across frames.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=3, help="how often each variant is timed; the median counts")
    parser.add_argument("--small", action="store_true", help="24 x 24 tokens only")
    chosen = parser.parse_args()
    with torch.inference_mode():
        for side in (24,) if chosen.small else SIDES:
            measure(side, chosen.device, chosen.rounds)


if __name__ == "__main__":
    main()
