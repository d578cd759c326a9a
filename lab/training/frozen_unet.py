"""A pipeline whose UNet is frozen and has the hooks of training; what both trainers are made on."""

from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from ...core.shapes import Float
from ...headless.unet_attention import hooked_attention
from ..plain_attention import plain_attention
from .denoising_task import DenoisingTask
from .group_attention import TrainingAttention
from .settings import TrainingSettings


class FrozenPipeline(nn.Module):
    """Holds a pipeline and its frozen UNet, whose attention has the hooks of training until `close`.

    Args:
        pipe: A StableDiffusionPipeline or StableDiffusionXLPipeline.
        settings: How it is trained.
    """

    def __init__(self, pipe: Any, settings: TrainingSettings) -> None:
        super().__init__()
        self.attention = TrainingAttention()
        self._pipe = (pipe,)  # not a part: its modules are frozen, and belong to no checkpoint of ours
        self.unet = pipe.unet.requires_grad_(False)
        if settings.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        self._hooks = ExitStack()
        self._hooks.enter_context(hooked_attention(self.unet, self.attention.share, self.attention.read))

    def close(self) -> None:
        """Take the hooks off the pipeline."""
        self._hooks.close()
        self.unet.disable_gradient_checkpointing()

    def predict(self, task: DenoisingTask) -> Float[Tensor, "n c h w"]:
        """What the UNet predicts, to learn from."""
        if self.unet.is_gradient_checkpointing:  # what the backward pass computes again would be computed otherwise
            return task.predict(self.pipe)
        with plain_attention(self.unet.device.type, task.noisy[0, 0].numel()):
            return task.predict(self.pipe)

    @property
    def pipe(self) -> Any:
        return self._pipe[0]
