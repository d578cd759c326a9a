"""Noisy image caching (IdentityStory, section 3.2, equations 3 and 4)."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .quoting import quote
from .shapes import Float


@dataclass(frozen=True)
class ModelCall:
    """One call of the model while the template was sampled.

    Args:
        sigma: The noise level of the call.
        prediction: The guided x0 prediction that the sampler continued with; a picture, or a video of one moment.
        latent: The latent that entered the call, or None where it was not kept.
        unconditional: The unconditional x0 prediction, kept only for samplers that read it (CFG++).
        step: The step of the schedule that it belongs to, 0-based, counted up; None where the solver did not say.
    """

    sigma: float
    prediction: Float[Tensor, "b c *moment h w"]
    latent: Float[Tensor, "b c *moment h w"] | None = None
    unconditional: Float[Tensor, "b c *moment h w"] | None = None
    step: int | None = None


@dataclass(frozen=True)
class Recipe:
    """What made a cache: enough to run the same solver again and to refuse a model it does not fit.

    Args:
        model_family: The host's name for the architecture, such as `SDXL`; for messages.
        latent_space: The host's name for the latents, such as `SDXL` or `Flux`. Models with one VAE share it.
        noise_kind: How noise is mixed into a latent, such as `diffusion` or `flow matching`.
        sigma_range: The smallest and largest noise level the model was trained on, or None where a noise level means
            the same in every model of this kind: x = (1 - sigma) x0 + sigma noise in flow matching.
        sampler_name: The sampler, for messages.
        seed: The seed of the starting noise and of the sampler's own noise.
        cfg: The guidance scale of the template.
        solver: The host's own sampler object; opaque here.
    """

    model_family: str
    latent_space: str
    noise_kind: str
    sigma_range: tuple[float, float] | None
    sampler_name: str
    seed: int
    cfg: int | float
    solver: object


@dataclass(frozen=True)
class NoisyLatentCache:
    """Every model call of one template frame, and what started and ended it.

    Tensors are on the CPU. `sigmas` is the schedule, from noisy to clean, one more than there are steps. A step may be
    several calls: Euler and DDIM call the model once, Heun and DPM-2 twice. Latents are in the model's own
    (scaled) space and with its kind of noise, except `initial` and `final`, which are in the host's LATENT space.
    Treat it as immutable: hosts keep it between runs. `maps`, where they were asked for, say how much each place of the
    picture attended to the words that name each character (see `core.automask`).
    """

    calls: tuple[ModelCall, ...]
    sigmas: Float[Tensor, " steps_plus_one"]
    noise: Float[Tensor, "b c *moment h w"]
    initial: Float[Tensor, "b c *moment h w"]
    final: Float[Tensor, "b c *moment h w"]
    noise_mask: Float[Tensor, "..."] | None
    recipe: Recipe
    maps: Mapping[str, Float[Tensor, "_ _"]] | None = None

    def __post_init__(self) -> None:
        if not self.calls:
            raise ValueError("A noisy latent cache needs at least one model call; the schedule had no steps.")
        shape = tuple(self.noise.shape)
        for index, call in enumerate(self.calls):
            if tuple(call.prediction.shape) != shape:
                raise ValueError(f"Call {index} predicted shape {tuple(call.prediction.shape)}, the noise is {shape}.")

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors held."""
        tensors = [self.sigmas, self.noise, self.initial, self.final, self.noise_mask, *(self.maps or {}).values()]
        for call in self.calls:
            tensors += [call.prediction, call.latent, call.unconditional]
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    def step_of(self, sigma: float) -> int:
        """The step a noise level belongs to: the last one whose sigma is not below it, 0-based, counted up."""
        return max(int((self.sigmas[:-1] >= sigma).sum()) - 1, 0)

    def step_of_call(self, call: ModelCall) -> int:
        """The step a call belongs to: what the solver said, else what its noise level tells.

        The noise level does not tell it of solvers that call the model several times per step: the second call of a
        step of Heun's method is at the next step's noise level.
        """
        return self.step_of(call.sigma) if call.step is None else call.step


class LatentRecorder:
    """Collects model calls while a host samples.

    Args:
        keep_from: Calls with a sigma above this keep no latent (predictions are always kept: replay needs them).
        dtype: Storage type. float32 is exact; float16 halves the bytes and rounds each prediction to 11 bits.
    """

    def __init__(self, keep_from: float = float("inf"), dtype: torch.dtype = torch.float32) -> None:
        self.keep_from = keep_from
        self.dtype = dtype
        self.calls: list[ModelCall] = []
        self._begun: list[tuple[int, int]] = []

    def add(self, sigma: float, latent: Tensor, prediction: Tensor, unconditional: Tensor | None = None) -> None:
        """Record one call; the tensors are copied to the CPU, so the sampler may write into its own."""
        self.calls.append(
            ModelCall(
                sigma=sigma,
                prediction=self._stored(prediction),
                latent=self._stored(latent) if sigma <= self.keep_from else None,
                unconditional=None if unconditional is None else self._stored(unconditional),
            )
        )

    def begin_step(self, step: int) -> None:
        """The solver reports that it is in a step, whose first call is the one recorded last."""
        self._begun.append((step, len(self.calls) - 1))

    def calls_of(self, sigmas: Float[Tensor, " steps_plus_one"]) -> tuple[ModelCall, ...]:
        """The calls, with their steps if the solver reported every step of the schedule right after its first call.

        Solvers that do not follow the schedule (dpm_fast) or report at the end of a step leave the steps None.
        """
        numbers, firsts = [step for step, _ in self._begun], [first for _, first in self._begun]
        if numbers != list(range(len(sigmas) - 1)) or firsts[0] != 0 or firsts != sorted(set(firsts)):
            return tuple(self.calls)
        levels = zip(firsts, sigmas[:-1].tolist(), strict=True)
        if any(self.calls[first].sigma < level * (1 - 1e-6) for first, level in levels):
            return tuple(self.calls)
        return tuple(replace(call, step=bisect_right(firsts, at) - 1) for at, call in enumerate(self.calls))

    def _stored(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to("cpu", self.dtype, copy=True)


class CacheReplay:
    """Replays the recorded calls in order, and refuses a solver that follows another trajectory.

    Args:
        calls: The recorded calls.
        sampler_name: Named in the error.
    """

    def __init__(self, calls: Sequence[ModelCall], sampler_name: str) -> None:
        self._calls = calls
        self._sampler_name = sampler_name
        self._next = 0

    def answer(self, sigma: float) -> ModelCall:
        """The next recorded call.

        Raises:
            ValueError: If the solver asks for another noise level than it did when the template was sampled.
        """
        if self._next >= len(self._calls) or self._calls[self._next].sigma != sigma:
            recorded = f"sigma {self._calls[self._next].sigma}" if self._next < len(self._calls) else "no further call"
            raise ValueError(
                f"The sampler {quote(self._sampler_name)} took another path than when the template was sampled: at "
                f"model call {self._next + 1} the cache holds {recorded}, now it asks for sigma {sigma}. Samplers "
                "whose steps depend on the picture cannot be replayed; use another sampler, such as euler."
            )
        call = self._calls[self._next]
        self._next += 1
        return call
