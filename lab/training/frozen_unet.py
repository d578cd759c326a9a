"""A pipeline whose UNet is frozen and has the hooks of training; what both trainers are made on."""

from contextlib import ExitStack, nullcontext
from typing import Any

from torch import Tensor, nn

from ...core.shapes import Float
from ...headless.unet_attention import hooked_attention
from ..float32_attention import Float32Attention
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
        # With checkpointing, the backward pass would compute again what was computed otherwise.
        with nullcontext() if self.unet.is_gradient_checkpointing else Float32Attention():
            return task.predict(self.pipe)

    @property
    def pipe(self) -> Any:
        return self._pipe[0]
