"""Which unconditional prediction guides a character in the second pass: their own, a shared one, or the template's.

With classifier-free guidance a character's prediction is U + cfg (C - U), with C from their prompt and U from the
negative prompt, two evaluations of the identity generator per character and model call. IdentityStory evaluates both.
For s characters, T steps and re-denoising from step t on, both passes together cost

    own          2 T + 2 s (T - t)
    shared       2 T + (s + 1) (T - t)      U is the same for all whose negative prompt and model are equal
    template's   2 T + s (T - t)            U is what the base model predicted when the template was sampled

evaluations per frame. "shared" changes nothing but the last bits. "template's" is an approximation: another model made
it, on the template's latent.
"""

import math

OWN, SHARED, TEMPLATES = GUIDANCE = ("own", "shared", "template's")


def redenoising_evaluations(found: int, steps: int, guidance: str, cfg: int | float) -> int:
    """Evaluations of the identity generator for one frame, with a solver that calls the model once per step.

    Args:
        found: Characters who have a mask (s).
        steps: Steps that are re-denoised (T - t).
        guidance: One of `GUIDANCE`.
        cfg: The guidance scale; at 1 no unconditional is evaluated.
    """
    if not found:
        return 0
    if math.isclose(cfg, 1.0) or guidance == TEMPLATES:
        return found * steps
    return (found + 1 if guidance == SHARED else 2 * found) * steps
