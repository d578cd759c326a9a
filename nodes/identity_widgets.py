"""The settings of drawing portraits and of finding an identity in them, as widgets of several nodes."""

import comfy.samplers
from comfy_api.latest import io


def portrait_widgets(seed: str) -> list[io.Input]:
    """How portraits are drawn.

    Args:
        seed: What the node says of the seed.
    """
    return [
        io.Int.Input("count", default=64, min=1, max=1024, tooltip="Portraits to draw (the paper's m)."),
        io.Int.Input("batch_size", default=4, min=1, max=64, tooltip="Drawn at a time; lower it if memory runs out."),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=io.ControlAfterGenerate.fixed,
            tooltip=seed,
        ),
        io.Int.Input("steps", default=50, min=1, max=1000, tooltip="Sampling steps."),
        io.Float.Input("cfg", default=5.0, min=0.0, max=100.0, step=0.1, tooltip="Guidance scale."),
        io.Combo.Input(
            "sampler_name", options=comfy.samplers.KSampler.SAMPLERS, default="euler", tooltip="The sampler."
        ),
        io.Combo.Input(
            "scheduler",
            options=comfy.samplers.KSampler.SCHEDULERS,
            default="normal",
            tooltip="The noise schedule.",
        ),
        io.Int.Input("width", default=1024, min=64, max=4096, step=8, tooltip="Portrait width in pixels."),
        io.Int.Input("height", default=1024, min=64, max=4096, step=8, tooltip="Portrait height in pixels."),
        io.String.Input(
            "template",
            default="a close-up photo of {character}",
            tooltip="The portrait prompt; {character} becomes the description.",
        ),
        io.String.Input(
            "negative",
            multiline=True,
            default="3d, cartoon, anime, sketches, illustration, painting",
            tooltip="The portraits' negative prompt. For drawn styles, take the words of your style out.",
        ),
    ]


def discovery_widgets() -> list[io.Input]:
    """How an identity is found in them."""
    return [
        io.Int.Input(
            "rank",
            default=10,
            min=1,
            max=2047,
            tooltip="Directions that count as the identity (the paper's k).",
        ),
        io.Float.Input(
            "keep_ratio",
            default=0.6,
            min=0.01,
            max=1.0,
            step=0.01,
            tooltip="Share of the portraits kept per round (the paper's r).",
        ),
        io.Int.Input(
            "iterations",
            default=3,
            min=0,
            max=20,
            tooltip="Rounds (the paper's p). 0 takes the plain mean of all portraits.",
        ),
    ]


def representatives_widget() -> io.Input:
    """How many of the portraits go with it."""
    return io.Int.Input(
        "representatives",
        default=4,
        min=1,
        max=64,
        optional=True,
        tooltip="How many of the portraits nearest to the identity go with it, for Reference Conditioning. "
        "In the file each takes 3 MB at 1024 x 1024.",
    )
