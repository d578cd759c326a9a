"""All benchmarks in one run: `python -m story_identity.lab.bench`, which `make bench` calls.

`--device cuda` where there is a GPU. The tables of the passes are Markdown, for docs/evidence/correctness_and_cost.md.
"""

import argparse

import torch

from . import attention, masks, passes


def main() -> None:
    parser = argparse.ArgumentParser(description="Evaluations, time and peak memory of all ways of drawing, as ratios.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=3, help="how often each way is timed; the median counts")
    parser.add_argument("--small", action="store_true", help="attention on 24 x 24 tokens only")
    parser.add_argument("--only", choices=("passes", "masks", "attention"), help="one of them")
    chosen = parser.parse_args()
    if chosen.only in (None, "passes"):
        print(passes.tables(chosen.device, chosen.rounds), flush=True)
    if chosen.only in (None, "masks"):
        masks.main()
    if chosen.only in (None, "attention"):
        with torch.inference_mode():
            for side in (24,) if chosen.small else attention.SIDES:
                attention.measure(side, chosen.device, chosen.rounds)


if __name__ == "__main__":
    main()
