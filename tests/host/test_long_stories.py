"""A long story in the toy world's workflow: what it takes of memory, and a power cut in the middle.

It has 60 frames, or as many as the environment's LONG_STORY says.
"""

import os
import threading
import time
from pathlib import Path

import psutil
import pytest

from .comfyui import ComfyUI
from .frame_loops import LoopHost, Prompt, node
from .test_story_cast import MIRA, PIP, inputs_of, told
from .test_workflows_run import nodes_of

pytestmark = pytest.mark.long

FRAMES = int(os.environ.get("LONG_STORY", "60"))
KILLED, SETTLED = FRAMES // 2, FRAMES // 6
GROWTH = 1.1
"""How much more memory than at the frame SETTLED the server may have later; what a story leaked would be more."""

DOING, PLACES = ("waving", "sitting", "jumping"), ("garden", "city", "forest", "snow")


def story() -> Prompt:
    """All frames show somebody; a line of the log says when one is drawn."""
    lines = [
        f"seed {number} | {('Mira', 'Pip')[number % 2]} {DOING[number % 3]} in the {PLACES[number % 4]}"
        for number in range(FRAMES)
    ]
    graph = told(MIRA, PIP, words=tuple(lines))
    (cache,), (each,) = (nodes_of(graph, f"StoryIdentity{kind}") for kind in ("NoisyLatentCache", "EachFrame"))
    graph["said"] = node("SayRan", latent=graph[cache]["inputs"]["latent_image"], word=[each, 1])
    graph[cache]["inputs"]["latent_image"] = ["said", 0]
    del graph["shown"]
    return graph


class Watched:
    """The memory of a server in MB, by how many frames it has saved; as a context manager, while a story runs."""

    def __init__(self, host: LoopHost, graph: Prompt) -> None:
        (save,) = nodes_of(graph, "StoryIdentitySaveFrame")
        folder, name = inputs_of(graph, "SaveFrame")["filename_prefix"].split("/")
        self._folder, self._pattern = host.output_dir / folder, f"{name}_????.png"
        self._process, self._over = psutil.Process(host.process_id), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.megabytes: dict[int, float] = {}

    def saved(self) -> int:
        return len(list(self._folder.glob(self._pattern)))

    def _watch(self) -> None:
        while not self._over.wait(0.2) and self._process.is_running():
            try:
                number, size = self.saved(), self._process.memory_info().rss / 1e6
                self.megabytes[number] = max(size, self.megabytes.get(number, 0))
            except psutil.NoSuchProcess:  # it was killed
                return

    def __enter__(self) -> "Watched":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def growth(self, since: int) -> float:
        """The most memory after a frame, to the memory at that frame, until the sheet of all frames is made."""
        print({number: round(size) for number, size in self.megabytes.items() if number % 25 == 0})
        later = {number: size for number, size in self.megabytes.items() if since <= number < FRAMES}
        return max(later.values()) / later[min(later)]


def test_memory_stays_and_a_killed_story_goes_on(comfyui: ComfyUI, tmp_path: Path):
    host, graph = LoopHost(comfyui, tmp_path), story()
    with host:
        with Watched(host, graph) as first:
            host.begin(graph)
            host.wait(lambda: first.saved() >= KILLED, seconds=3600)
            host.kill()
        drawn = sum(line.startswith("RAN") for line in host.ran())
    assert KILLED <= drawn <= KILLED + 1
    assert first.growth(SETTLED) < GROWTH
    with host:
        with Watched(host, graph) as second:
            began = time.monotonic()
            host.run(graph, timeout_s=3600)
            print(f"{time.monotonic() - began:.0f} s")
        drawn = sum(line.startswith("RAN") for line in host.ran())
    assert FRAMES - KILLED - 1 <= drawn <= FRAMES - KILLED
    assert second.saved() == FRAMES
    assert second.growth(KILLED + SETTLED) < GROWTH
