"""A small story in the toy world whose frames are drawn between Each Frame and Collect Frames, for tests."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .comfyui import REPOSITORY, ComfyUI
from .server import PACK, Host

COUNTING = "count_evaluations"
STEPS = 2
WORDS = ("Mira waving in the garden", "Mira sitting on the beach", "Pip jumping in the snow")
CHARACTERS = "Mira | woman | a woman with red hair\nPip | robot | a robot with a white lamp"

Prompt = dict[str, dict[str, Any]]


class LoopHost(Host):
    """A server with the pack and one that counts what runs."""

    def __init__(
        self,
        comfyui: ComfyUI,
        folder: Path,
        *options: str,
        variables: dict[str, str] | None = None,
        packs: tuple[str, ...] = (),
    ):
        own = {PACK: REPOSITORY, **{name: Path(__file__).parent / name for name in (COUNTING, *packs)}}
        super().__init__(comfyui, folder, own, {"OMP_NUM_THREADS": "1", **(variables or {})}, options)
        self._read = self._read_samples = 0

    def __enter__(self) -> "LoopHost":
        self._read = self._read_samples = 0
        super().__enter__()
        return self

    def ran(self) -> list[str]:
        """The lines of the counting pack since this was asked last, in order: EVALUATION, or RAN and a word."""
        lines = re.findall(r"(?:EVALUATION|RAN .*)$", self.log(), re.MULTILINE)
        new, self._read = lines[self._read :], len(lines)
        return new

    def run_with_workflow(self, prompt: Prompt, workflow: dict[str, Any]) -> None:
        """Run a prompt as the editor sends it, with the workflow that pictures carry."""
        body = {"prompt": prompt, "extra_data": {"extra_pnginfo": {"workflow": workflow}}}
        prompt_id = json.loads(self.read("/prompt", body))["prompt_id"]
        self.wait(lambda: prompt_id in self.get(f"/history/{prompt_id}"))

    def begin(self, prompt: Prompt) -> str:
        """Queue a prompt and do not wait."""
        return self._queue(prompt)

    def wait(self, happened: Callable[[], bool], seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < end, self.log()[-3000:]
            assert self._process is not None
            assert self._process.poll() is None, self.log()[-3000:]
            time.sleep(0.02)

    @property
    def process_id(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """End the server as a power cut would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def evaluations(self) -> int:
        """How often a model was evaluated since this was asked last."""
        return self.ran().count("EVALUATION")

    def samples(self) -> int:
        """How many samples went through a model since this was asked last, however they were batched."""
        numbers = re.findall(r"SAMPLES (\d+)$", self.log(), re.MULTILINE)
        new, self._read_samples = numbers[self._read_samples :], len(numbers)
        return sum(map(int, new))


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def looped(*words: str, steps: int = STEPS, characters: str = CHARACTERS, **each: Any) -> Prompt:
    """A workflow that draws each frame with stock nodes and saves it, and shows all of them at the end."""
    story = {"story_file": "(typed in below)", "characters": characters, "prompts": "\n".join(words)}
    chosen = {"frames": "all", "seed": 1, "seeds": "by words", **each}
    sampling = {"steps": steps, "cfg": 2.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    return {
        "toy": node("StoryIdentityToyWorldLoader"),
        "model": node("CountEvaluations", model=["toy", 0]),
        "story": node("StoryIdentityStory", **story, style="", negative=""),
        "each": node("StoryIdentityEachFrame", story=["story", 0], **chosen),
        "text": node("StoryIdentityEncodeFrame", clip=["toy", 2], frame=["each", 0]),
        "negative": node("CLIPTextEncode", clip=["toy", 2], text=["each", 2]),
        "empty": node("EmptyLatentImage", width=128, height=128, batch_size=1),
        "before": node("SayRan", latent=["empty", 0], word="before the loop"),
        "said": node("SayRan", latent=["before", 0], word=["each", 1]),
        "drawn": node(
            "KSampler",
            model=["model", 0],
            positive=["text", 0],
            negative=["negative", 0],
            latent_image=["said", 0],
            seed=["each", 3],
            **sampling,
        ),
        "decoded": node("VAEDecode", samples=["drawn", 0], vae=["toy", 3]),
        "saved": node("StoryIdentitySaveFrame", images=["decoded", 0], filename_prefix="tale/frame", number=0),
        "collected": node("StoryIdentityCollectFrames", value_1=["saved", 0]),
        "shown": node("PreviewImage", images=["collected", 1]),
    }
