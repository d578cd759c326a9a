"""Subject tokens of frames that were run, for frames that are run later (Storynizor, section 3.1; `core.attention`)."""

from collections.abc import Hashable

import torch

from .attention import SubjectTokens


class SubjectBank:
    """Subject tokens of the anchor frames, per step and layer, for frames that are run later.

    The pass over the anchors puts what each layer gathered; the bank is then read only. It holds the anchors' subject
    tokens and nothing else: 2 * m * e numbers per step and layer. Steps and layers are named by whatever hashable
    values the host likes; conditional and unconditional rows are different layers.

    Args:
        dtype: How tokens are stored, on the CPU. float16 keeps 11 bits; float32 and bfloat16 have a wider range.
    """

    def __init__(self, dtype: torch.dtype = torch.float16) -> None:
        self.dtype = dtype
        self._entries: dict[tuple[Hashable, Hashable], SubjectTokens] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors held."""
        return sum(tokens.k.nbytes + tokens.v.nbytes for tokens in self._entries.values())

    def __contains__(self, step_and_layer: tuple[Hashable, Hashable]) -> bool:
        """Whether the anchors' pass put anything there."""
        return step_and_layer in self._entries

    def put(self, step: Hashable, layer: Hashable, tokens: SubjectTokens) -> None:
        """Keep a copy of what a layer gathered at a step.

        Raises:
            ValueError: If this step and layer are in the bank already, or a number is too large for its dtype.
        """
        if (step, layer) in self._entries:
            raise ValueError(
                f"The bank already holds step {step}, layer {layer}. Name every call of the model apart (a sampler may "
                "call it twice in a step), and conditional and unconditional rows too."
            )
        stored = SubjectTokens(
            tokens.k.detach().to("cpu", self.dtype, copy=True),
            tokens.v.detach().to("cpu", self.dtype, copy=True),
            tokens.bounds,
            None if tokens.centers is None else tokens.centers.cpu(),
        )
        if not (stored.k.isfinite().all() and stored.v.isfinite().all()):
            raise ValueError(f"Step {step}, layer {layer}: a key or value is not finite in {self.dtype}.")
        self._entries[step, layer] = stored

    def get(self, step: Hashable, layer: Hashable, device: torch.device | str, dtype: torch.dtype) -> SubjectTokens:
        """The anchors' tokens of a step and layer, to be passed as `further`.

        Raises:
            ValueError: If the anchors' pass did not put them.
        """
        if (step, layer) not in self._entries:
            raise ValueError(
                f"The bank holds nothing for step {step}, layer {layer}. Run the anchor frames with the same schedule, "
                "guidance and layers as the frames that read them."
            )
        return self._entries[step, layer].to(device, dtype)


class CallBank:
    """Subject tokens of the frames that were run so far in one call of a sampler, in which each frame is run by itself.

    It holds them where they are, as they are, and is emptied before the sampler's next call: 2 * m * e numbers per
    layer and prompt. What several frames put under one name is joined.
    """

    def __init__(self) -> None:
        self._entries: dict[Hashable, SubjectTokens] = {}
        self.skipped = False
        """Whether a frame that should have put something was not evaluated."""

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values held."""
        return sum(tokens.k.nbytes + tokens.v.nbytes for tokens in self._entries.values())

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.skipped = False

    def put(self, call: Hashable, layer: Hashable, tokens: SubjectTokens) -> None:
        """Keep what a layer gathered of a further frame."""
        known = self._entries.get((call, layer))
        self._entries[call, layer] = tokens if known is None else known.joined(tokens)

    def find(self, call: Hashable, layer: Hashable) -> SubjectTokens | None:
        """What the frames so far put there; None: nothing."""
        return self._entries.get((call, layer))
