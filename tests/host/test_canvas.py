"""The quickstart in ComfyUI's own editor, by mouse and keyboard: a run costs what was changed.

Samples are counted as in `test_edit_costs`: one is one picture in one evaluation, and with CFG a step takes two.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from .chromium import CHROMIUM, Page
from .comfyui import REPOSITORY, ComfyUI
from .editor import SAID, open_editor, open_workflow, wait
from .frame_loops import LoopHost

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium found, so ComfyUI's own editor was not tried"),
]

COUNT, PORTRAIT_STEPS, STEPS, START = 16, 2, 7, 5
"""Portraits of a character and their steps; steps of a frame, and the one from which its people are drawn again."""
IDENTITY, TEMPLATE, PERSON = COUNT * PORTRAIT_STEPS * 2, STEPS * 2, (STEPS - START) * 2
"""Samples for one character, for a frame, and for each of the people in it."""
LONG = [
    f"{who} {what}" for what in ("standing in the kitchen", "jumping in the forest") for who in ("Mira", "Pip", "Ben")
]
RUN_S = 300.0
RUN, STOP = "[data-testid=queue-button]", '[aria-label="Cancel current run"]'

COUNTED = """
    const toy = app.graph.nodes.find(node => node.type === "StoryIdentityToyWorldLoader")
    for (const slot of [0, 1]) {
        const counting = LiteGraph.createNode("CountEvaluations")
        counting.pos = [20, 1050 + 80 * slot]
        app.graph.add(counting)
        for (const id of [...toy.outputs[slot].links]) {
            const link = app.graph.links.get(id)
            counting.connect(0, app.graph.getNodeById(link.target_id), link.target_slot)
        }
        toy.connect(slot, counting, 0)
    }
"""
FIND = """
    const node = app.graph.nodes.find(node => node.title === TITLE)
    const widget = node.widgets.find(widget => widget.name === NAME)
"""
WHERE_ELEMENT = """
    const element = ELEMENT
    if (!element) return
    const box = element.getBoundingClientRect()
    const places = [1/2, 1/8].map(part => [box.x + box.width / 2, box.y + box.height * part])
    return places.find(([x, y]) => element.contains(document.elementFromPoint(x, y)))
"""
WHERE_NUMBER = """
    const {scale, offset} = app.canvas.ds, page = app.canvas.canvas.getBoundingClientRect()
    const [x, y] = [node.pos[0] + node.size[0] / 2, node.pos[1] + widget.y + LiteGraph.NODE_WIDGET_HEIGHT / 2]
    return [page.x + scale * (x + offset[0]), page.y + scale * (y + offset[1])]
"""
ASKS = """
    const asks = document.querySelector(".graphdialog input")
    asks?.select()
    return asks !== null
"""
SHOWN = """
    const kinds = Object.fromEntries(app.graph.nodes.map(node => [node.type, node]))
    const text = kind => kinds[kind].widgets.map(widget => String(widget.value ?? "")).join("\\n")
    return {
        story: text("StoryIdentityStory"),
        collected: text("StoryIdentityCollectFrames"),
        pictures: Object.keys(kinds).filter(kind => kinds[kind].imgs?.length).sort(),
        said: [...document.querySelectorAll(SAID)].map(each => each.innerText),
    }
""".replace("SAID", json.dumps(SAID))


@dataclass(frozen=True)
class Canvas:
    """The editor, with a workflow in it, and what its user does."""

    host: LoopHost
    page: Page

    def click(self, element: str, before: str = "") -> None:
        """Click what an expression gives, after a script, as soon as it is there and nothing lies above it."""
        where = before + WHERE_ELEMENT.replace("ELEMENT", element)
        wait(lambda: self.page.run(where), RUN_S)
        self.page.click(*self.page.run(where))

    def press(self, button: str) -> None:
        """Click a button that a CSS selector finds."""
        self.click(f"document.querySelector({json.dumps(button)})")

    def set_number(self, title: str, name: str, value: int) -> None:
        """Double-click a number of a node, and type another one."""
        self.page.click(*self.page.run(found(title, name) + WHERE_NUMBER), times=2)
        wait(lambda: self.page.run(ASKS), RUN_S)
        self.page.type(str(value))
        self.page.press_enter()
        wait(lambda: not self.page.run(ASKS), RUN_S)
        assert self.page.run(found(title, name) + "return widget.value") == value

    def text(self, title: str, name: str) -> str:
        return self.page.run(found(title, name) + "return widget.element.value")

    def write(self, title: str, name: str, words: str, start: int, end: int) -> None:
        """Click into a text box, mark the characters from `start` up to `end`, and type words in their place."""
        self.click("widget.element", found(title, name))
        self.page.run(f"document.activeElement.setSelectionRange({start}, {end})")
        before = self.text(title, name)
        self.page.type(words)
        assert self.text(title, name) == before[:start] + words + before[end:]

    def add_line(self, title: str, name: str, line: str) -> None:
        end = len(self.text(title, name))
        self.write(title, name, f"\n{line}", end, end)

    def edit_frame(self, number: int, words: str) -> None:
        """Write another line in place of a frame's."""
        lines = self.text("Story", "prompts").split("\n")
        start = sum(len(line) + 1 for line in lines[: number - 1])
        self.write("Story", "prompts", words, start, start + len(lines[number - 1]))

    def run(self) -> int:
        """Press Run and wait; gives the samples that it cost."""
        self.host.samples()
        before = self.runs()
        self.press(RUN)
        assert self.ended(before) == "success", self.host.log()[-3000:]
        return self.host.samples()

    def runs(self) -> set[str]:
        return set(self.host.get("/history"))

    def ended(self, before: set[str]) -> str:
        """Wait for the end of the one run that is not among those before, and give its status."""
        wait(lambda: self.runs() - before, RUN_S)
        (run,) = self.runs() - before
        return self.host.get(f"/history/{run}")[run]["status"]["status_str"]

    def frames(self) -> dict[str, bytes]:
        """The saved files of the frames, by name."""
        return {path.name: path.read_bytes() for path in (self.host.output_dir / "StoryIdentity").glob("frame_*.png")}


def found(title: str, name: str) -> str:
    """The start of a script about one widget of one node."""
    return FIND.replace("TITLE", json.dumps(title)).replace("NAME", json.dumps(name))


@pytest.fixture(scope="module")
def canvas(comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Canvas]:
    """The quickstart with few portraits and steps, run once. Each test leaves a story that has been run."""
    with (
        LoopHost(comfyui, tmp_path_factory.mktemp("comfyui")) as host,
        open_editor(host, tmp_path_factory.mktemp("chromium")) as page,
    ):
        canvas = Canvas(host, page)
        open_workflow(page, REPOSITORY / "workflows" / "toyworld_quickstart.json")
        page.run(COUNTED)
        canvas.set_number("Find Identity", "count", COUNT)
        canvas.set_number("Find Identity", "steps", PORTRAIT_STEPS)
        canvas.set_number("Draw the frame", "steps", STEPS)
        assert canvas.run() == 3 * IDENTITY + 4 * TEMPLATE + 6 * PERSON
        yield canvas


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    return sorted(name for name in after if after[name] != before.get(name))


def test_run_saves_the_frames_and_shows_them(canvas: Canvas):
    assert len(canvas.frames()) == len(canvas.text("Story", "prompts").split("\n"))
    showing = ["StoryIdentityFindIdentity", "StoryIdentitySaveFrame", "StoryIdentityStorySheet"]
    wait(lambda: canvas.page.run(SHOWN)["pictures"] == showing, RUN_S)
    assert canvas.page.run(SHOWN)["said"] == []
    assert canvas.run() == 0


def test_an_edited_line_draws_its_frame_again(canvas: Canvas):
    before = canvas.frames()
    canvas.edit_frame(2, "Mira in the forest with a cat")
    assert canvas.run() == TEMPLATE + PERSON
    assert changed(before, canvas.frames()) == ["frame_0002.png"]


def test_nodes_say_what_is_drawn_and_how_far_the_story_is(canvas: Canvas):
    canvas.edit_frame(3, "Ben waving in the garden")
    canvas.run()
    frames = len(canvas.text("Story", "prompts").split("\n"))
    wait(lambda: "3 · Ben\n" in canvas.page.run(SHOWN)["story"], RUN_S)
    wait(lambda: f"frame {frames} of {frames}" in canvas.page.run(SHOWN)["collected"], RUN_S)


def test_another_character_costs_its_portraits_and_its_frame(canvas: Canvas):
    before = canvas.frames()
    canvas.add_line("Characters", "characters", "Ada | girl | a girl with blond hair")
    canvas.add_line("Story", "prompts", "Ada and Pip in the kitchen")
    assert canvas.run() == IDENTITY + TEMPLATE + 2 * PERSON
    assert changed(before, canvas.frames()) == [f"frame_{len(before) + 1:04}.png"]


def test_a_mistake_is_said_and_nothing_runs(canvas: Canvas):
    before, text = canvas.runs(), canvas.text("Characters", "characters")
    canvas.add_line("Characters", "characters", "Uma | girl")
    canvas.press(RUN)
    wait(lambda: canvas.page.run(SHOWN)["said"], RUN_S)
    (said,) = canvas.page.run(SHOWN)["said"]
    assert "Characters" in said
    canvas.press("[data-testid=error-overlay] button")  # View details
    canvas.press('[aria-label="Info for Characters - characters"]')
    wait(lambda: "Character line" in canvas.page.run("return document.body.innerText"), RUN_S)
    assert canvas.runs() == before
    canvas.write("Characters", "characters", text, 0, len(canvas.text("Characters", "characters")))
    assert canvas.run() == 0


def test_what_is_drawn_before_a_stop_is_kept(canvas: Canvas):
    old = canvas.frames()
    canvas.write("Story", "prompts", "\n".join(LONG), 0, len(canvas.text("Story", "prompts")))
    before = canvas.runs()
    canvas.press(RUN)
    wait(lambda: changed(old, canvas.frames()), RUN_S)
    canvas.press(STOP)
    assert canvas.ended(before) == "error"
    kept = changed(old, canvas.frames())
    left = len(LONG) - len(kept)
    assert 0 < left < len(LONG)
    stopped = canvas.frames()
    cost = TEMPLATE + PERSON
    assert (left - 1) * cost <= canvas.run() <= left * cost
    after = canvas.frames()
    assert len(changed(old, after)) == len(LONG)
    assert not set(kept) & set(changed(stopped, after))


def test_a_saved_frame_brings_its_story_back(canvas: Canvas):
    canvas.edit_frame(1, "Pip waving in the snow with a kite")
    canvas.run()
    story = canvas.text("Story", "prompts")
    canvas.edit_frame(1, "the empty city")
    canvas.page.drop(canvas.host.output_dir / "StoryIdentity" / "frame_0001.png", 700, 900)
    wait(lambda: canvas.text("Story", "prompts") == story, RUN_S)
    assert canvas.run() == 0
