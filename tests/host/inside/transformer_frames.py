"""A small story on the tiny transformers, and what AMSA does there written out as dense attention."""

import comfy.sample
import torch
from frames import PEOPLE, WORDS
from story_identity.core.story import Story
from story_identity.nodes.host.story_prompts import NAMED, padded_batch

JOINT = (
    "Flux.1",
    "Flux.1 schnell",
    "Flux.2",
    "Flux.2 klein",
    "Qwen-Image",
    "Qwen-Image-Edit",
    "Z-Image",
    "Krea 2",
    "SD3.5",
    "Lumina2",
    "Chroma",
    "AuraFlow",
    "LongCat-Image",
    "HiDream",
)
"""The families whose text and picture are one sequence, by their names in `FAMILIES`."""

ALL = (*JOINT, "Anima")
"""All families of transformers in which AMSA and attention maps work."""

REFUSED = {
    "Ernie-Image": "Ernie-Image computes its attention without the host's hook",
    "HunyuanImage 2.1": "HunyuanImage21",
    "OmniGen2": "Omnigen2",
    "Stable Cascade": "Stable_Cascade_C",
    "Cosmos-Predict2": "CosmosT2IPredict2",
    "Wan 2.1": "WAN21_T2V",
}
"""The families that are refused, and what the message says of them."""

SIDE = 128
GRID = (8, 8)
TOKENS = 12
NEGATIVE_TOKENS = 10
PICTURE_FIRST = ("HiDream",)
"""The families whose picture lies before the text."""
THREE_TEXTS = ("HiDream",)
"""The families whose text is the prompt's tokens three times: of one encoder, and twice of another."""


def text_tokens(name, given):
    """How many tokens of a sequence are text, by family."""
    lengths = {"Flux.2": 512, "Flux.2 klein": 512, "Z-Image": -(-given // 32) * 32, "AuraFlow": 8 + given}
    return 3 * given if name in THREE_TEXTS else lengths.get(name, given)


def first_of_picture(name, text):
    """Where the picture begins in a sequence with so many tokens of text."""
    return 0 if name in PICTURE_FIRST else text


def nobody(count=3):
    return Story.parse({"characters": PEOPLE, "frames": ["an empty beach", "a forest", "a road"][:count]})


def prompts(family, told, lengths=TOKENS, seed=1, **extras):
    """Random prompts, one per frame, that name the frame's people at `WORDS`; and random negatives."""
    lengths = [lengths] * len(told.frames) if isinstance(lengths, int) else lengths
    encoded = [family.conditioning(seed + i, length) for i, length in enumerate(lengths)]
    casts = [{person.name for person in frame.cast} for frame in told.frames]
    named = {
        "names": list(WORDS),
        "prompts": [frame.prompt for frame in told.frames],
        "positions": [[places if name in cast else [] for cast in casts] for name, places in WORDS.items()],
    }
    if family.name in THREE_TEXTS:  # places in all three
        named |= {"as_given": True, "positions": [thrice(each, lengths) for each in named["positions"]]}
    positive = [[rows, {**own, NAMED: named, **extras}] for rows, own in padded_batch(encoded)]
    negatives = [family.conditioning(50 + i, NEGATIVE_TOKENS) for i in range(len(told.frames))]
    return positive, [[rows, {**own, **extras}] for rows, own in padded_batch(negatives)]


def thrice(places, lengths):
    """Per frame, places in a text that is three times as long as the prompt."""
    return [
        [text * length + place for text in range(3) for place in own]
        for own, length in zip(places, lengths, strict=True)
    ]


def latents(family, model, count):
    empty = family.latent(SIDE, SIDE, count)
    return comfy.sample.fix_empty_latent_channels(model, empty["samples"], empty.get("downscale_ratio_spacial"))


def sample(family, model, told, conds=None, *, steps=3, cfg=3.0, sampler="euler", frame=None, **more):
    """Sample all frames, or one by itself with the noise that it has among all."""
    positive, negative = conds or prompts(family, told)
    empty = latents(family, model, len(told.frames))
    noise = torch.stack(
        [torch.randn(row.shape, generator=torch.Generator().manual_seed(3 + i)) for i, row in enumerate(empty)]
    )
    if frame is not None:
        empty, noise = empty[:1], noise[frame : frame + 1]
    settings = (steps, cfg, sampler, "simple", positive, negative)
    return comfy.sample.sample(model, noise, *settings, empty, seed=7, disable_pbar=True, **more)


def overridden(model, override):
    """A clone whose attention is made by `override(q, k, v, heads, mask, sigma, options, plain)`.

    Queries, keys and values are `(rows, tokens, heads, width)`; what it returns is `(rows, tokens, heads * width)`.
    """

    def adapter(attention, q, k, v, heads, *args, **kw):
        def plain():
            return attention(q, k, v, heads, *args, **kw)

        options, split = kw["transformer_options"], kw.get("skip_reshape")
        shaped = [each.transpose(1, 2) if split else each.reshape(*each.shape[:2], heads, -1) for each in (q, k, v)]
        mask = args[0] if args else kw.get("mask")
        return override(*shaped, mask, float(options["sigmas"].max()), options, plain)

    patched = model.clone()
    options = patched.model_options["transformer_options"]
    patched.model_options["transformer_options"] = {**options, "optimized_attention_override": adapter}
    return patched


def written_out(name, model, noted, sees=lambda viewer, seen: viewer != seen, references=0, blocks=None, rotary=None):
    """A clone that does what AMSA does by one dense, masked attention over all frames, with masks already known.

    Args:
        name: The family.
        model: Its MODEL.
        noted: From `masks_noted`.
        sees: Whether a frame sees another one's people.
        references: Tokens of the reference pictures.
        blocks: The joint layers that share, counted through a call; None: all.
        rotary: The network's rotary axes and base, where keys are moved to where the viewer has the person.
    """
    picture = GRID[0] * GRID[1]
    lengths = {
        text_tokens(name, given) + picture + references: text_tokens(name, given) for given in (TOKENS, NEGATIVE_TOKENS)
    }
    seen = {"sigma": None, "count": 0}

    def override(q, k, v, mask, sigma, options, plain):
        known = noted.get(sigma, {}).get(GRID)
        prompts, total = len(options["uuids"]), q.shape[1]
        text = lengths.get(total, 0 if name in ("SD3.5", "Anima") and total == picture else None)
        if text is None or k.shape[1] != total:
            return plain()
        layer = (sigma, prompts, options["uuids"][0])
        seen["count"] = seen["count"] + 1 if seen["sigma"] == layer else 0
        seen["sigma"] = layer
        if known is None or (blocks is not None and seen["count"] not in blocks):
            return plain()
        first = first_of_picture(name, text) + (references if name == "Z-Image" else 0)
        parts = zip(*(each.double().chunk(prompts) for each in (q, k, v)), strict=True)
        added = [None] * prompts if mask is None else mask.expand(len(q), 1, total)[:, 0].double().chunk(prompts)
        return torch.cat([joined(*part, known, first, each) for part, each in zip(parts, added, strict=True)]).to(
            q.dtype
        )

    def joined(q, k, v, known, first, added):
        frames, total, heads = q.shape[:3]
        subject, labels = torch.zeros(frames, total, dtype=torch.bool), torch.full((frames, total), -1)
        subject[:, first : first + picture], labels[:, first : first + picture] = known
        subject, labels = subject.flatten(), labels.flatten()
        frame = torch.arange(frames).repeat_interleave(total)
        others = torch.tensor([[sees(one, other) for other in range(frames)] for one in range(frames)])
        foreign = subject[None, :] & (labels[:, None] == labels[None, :]) & others[frame][:, frame]
        own = frame[:, None] == frame[None, :]
        bias = torch.zeros(frames * total, frames * total, dtype=torch.double)
        if added is not None:
            bias += torch.where(own, added.flatten()[None, :], 0)
        bias.masked_fill_(~(own | foreign), -torch.inf)
        if rotary is not None:
            moved = [moved_to(viewer, k, labels.view(frames, total), first) for viewer in range(frames)]
            viewers = [
                dense(q[row : row + 1], keys, v, bias.view(frames, total, -1)[row]) for row, keys in enumerate(moved)
            ]
            return torch.cat(viewers)
        return dense(q, k, v, bias)

    def moved_to(viewer, k, labels, first):
        """All keys, those of the people whom the viewer shows moved upon them, middle upon middle."""
        keys = k.clone()
        for label in labels[viewer].unique():
            for frame in range(len(k)):
                here, there = ((labels[each] == label).nonzero().flatten() for each in (viewer, frame))
                if label >= 0 and frame != viewer and len(there):
                    middles = [
                        torch.stack([(at - first) // GRID[1], (at - first) % GRID[1]]).float().mean(1)
                        for at in (here, there)
                    ]
                    keys[frame, there] = rotated(k[frame, there], (middles[0] - middles[1]).round(), *rotary)
        return keys

    def dense(q, k, v, bias):
        frames, total = q.shape[:2]
        q, k, v = (each.flatten(0, 1).transpose(0, 1) for each in (q, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return out.transpose(0, 1).flatten(1).unflatten(0, (frames, total))

    return overridden(model, override)


def rotated(k, by, axes, base):
    """Keys `(tokens, heads, width)`, rotary ones, `by` cells farther down and right, in double precision."""
    angles = []
    for dim, distance in zip(axes, (0.0, *by.tolist(), 0.0), strict=False):
        angles += [distance * base ** (-2 * i / dim) for i in range(dim // 2)]
    turn = torch.polar(torch.ones(len(angles), dtype=torch.double), torch.tensor(angles, dtype=torch.double))
    turned = torch.view_as_complex(k.double().unflatten(-1, (-1, 2)).contiguous()) * turn
    return torch.view_as_real(turned).flatten(-2)
