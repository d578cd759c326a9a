"""Workers on Ray: they are killed, nodes of a cluster go and come, the command is stopped; the bytes stay the same."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from story_identity.core.story import Story
from story_identity.headless.run import run_story
from story_identity.headless.story_set import StorySet

from .inline_crew import QuickWorker
from .stories import STORY, PlaceDetector, contents, options_of, settings, story
from .test_processes import ENVIRONMENT, ROOT

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


class SlowWorker(QuickWorker):
    """Takes half a second for each task, so that there is time to end it."""

    def do(self, *arguments):
        time.sleep(0.5)
        return super().do(*arguments)


@pytest.fixture(scope="module")
def stories():
    return {"one": story(), "two": story([*STORY["frames"][::-1], "Mira and Tom in the snow"])}


@pytest.fixture(scope="module")
def whole(stories, toyworld_folder, tmp_path_factory):
    """The stories as one process makes them."""
    out = tmp_path_factory.mktemp("whole")
    for name, each in stories.items():
        run_story(each, settings(toyworld_folder), out / name, detector=PlaceDetector())
    return contents(out)


@pytest.fixture(scope="module")
def cluster():
    """A cluster of a head, on which nothing runs, and two nodes for a worker each."""
    environment = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    environment |= {"RAY_worker_niceness": "0"}
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    import ray
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 80 * 2**20}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    nodes = [made.add_node(num_cpus=1, **small) for _ in range(2)]
    ray.init(made.address, log_to_driver=False, logging_level="ERROR")
    yield made, nodes, small
    ray.shutdown()
    made.shutdown()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


def while_made(made, act):
    """Make a set of stories in another thread and, when two workers are ready, call `act` with the crew.

    `act` has the main thread, in which alone Ray adds a node.
    """
    with ThreadPoolExecutor(1) as pool:
        failures = pool.submit(made.make)
        while not failures.done() and (made.crew is None or len(made.crew.opened) < 2):
            time.sleep(0.05)
        assert not failures.done(), failures.result()
        act(made.crew)
        return failures.result(timeout=600)


def test_two_workers_give_the_bytes_of_one_process(cluster, stories, whole, toyworld_folder, tmp_path):
    """And are gone when all is made."""
    made = StorySet(stories, settings(toyworld_folder), tmp_path, worker=QuickWorker)
    seen = []
    assert while_made(made, lambda crew: seen.extend(each.process for each in crew.opened)) == []
    assert contents(tmp_path) == whole
    assert len(set(seen)) == 2
    assert not [process for process in seen if os.path.exists(f"/proc/{process}")]


def test_workers_killed_at_random_moments_come_to_the_same_bytes(cluster, stories, whole, toyworld_folder, tmp_path):
    moments, notices = random.Random(5), []

    def kill(crew):
        for _ in range(3):
            time.sleep(moments.uniform(0.1, 1.0))
            while not crew.opened:
                time.sleep(0.05)
            os.kill(moments.choice(crew.opened).process, signal.SIGKILL)

    made = StorySet(stories, settings(toyworld_folder), tmp_path, worker=SlowWorker, notice=notices.append)
    assert while_made(made, kill) == []
    assert contents(tmp_path) == whole
    assert 1 <= len(notices) <= 3
    assert all(sentence.endswith("Another worker does it again.") for sentence in notices)


def test_a_node_that_dies_and_comes_back_changes_no_byte(cluster, stories, whole, toyworld_folder, tmp_path):
    made_cluster, nodes, small = cluster
    back = []

    def lose_a_node(crew):
        gone = {each.process for each in crew.opened}
        made_cluster.remove_node(nodes.pop(), allow_graceful=False)
        nodes.append(made_cluster.add_node(num_cpus=1, **small))
        while not back and made.crew.slots:
            back.extend(each for each in crew.opened if each.process not in gone)
            time.sleep(0.05)

    made = StorySet(stories, settings(toyworld_folder), tmp_path, worker=SlowWorker)
    assert while_made(made, lose_a_node) == []
    assert contents(tmp_path) == whole


def of_session(marker):
    """The processes, by id, that have a mark in their environment."""
    found = []
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{process}/environ", "rb") as file:
                found += [int(process)] if marker.encode() in file.read() else []
        except OSError:
            continue  # gone, or another user's
    return found


def wait_until(true, seconds):
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.2)
    return true()


def stop_after(command, environment, out, count, number):
    """Start the command, and send a signal when it has made so many pictures; returns its errors and exit status."""

    def pictures():
        return len(list(out.rglob("*.png")))

    def hear():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts deaf to Ctrl-C

    before = pictures()
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=hear)
    assert wait_until(lambda: pictures() >= before + count or process.poll() is not None, 600)
    process.send_signal(number)
    return process.communicate(timeout=300)[1], process.returncode


def test_killed_or_stopped_the_command_leaves_no_process_and_goes_on(whole, toyworld_folder, tmp_path):
    """SIGKILL, then Ctrl-C, then to its end; with the masks of the whole run, for which no detector is needed."""
    masks = tmp_path / "masks"
    masks.mkdir()
    for name, content in whole.items():
        if name.startswith("one/masks/"):
            (masks / name.rpartition("/")[2]).write_bytes(content)
    chosen = settings(toyworld_folder, detector="none", masks=str(masks))
    (tmp_path / "story.json").write_text(json.dumps(STORY))
    run_story(Story.load(tmp_path / "story.json"), chosen, tmp_path / "alone")
    out, mark = tmp_path / "out", f"STORY_IDENTITY_TEST={tmp_path}"
    environment = {**ENVIRONMENT, "STORY_IDENTITY_TEST": str(tmp_path)}
    words = ["run", tmp_path / "story.json", "--out", out, *options_of(chosen), "--workers", 2]
    command = [sys.executable, "-m", "story_identity.headless", *map(str, words)]
    for number, status, count in ((signal.SIGKILL, -9, 1), (signal.SIGINT, 130, 2)):
        errors, returned = stop_after(command, environment, out, count, number)
        assert (returned, "Traceback" in errors) == (status, False), errors
        assert wait_until(lambda: not of_session(mark), 150), of_session(mark)
    assert not list(out.rglob("*.tmp"))
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=900)
    assert contents(out) == contents(tmp_path / "alone")
    assert not of_session(mark)
