"""Sets of stories without Ray: what is given out when, and what happens where workers end or something fails."""

import errno
import json
import shutil

import pytest
from story_identity.core.atomic_files import unwritable
from story_identity.headless import cli, worker
from story_identity.headless.production import Production
from story_identity.headless.run import run_story
from story_identity.headless.run_folder import RunFolder
from story_identity.headless.story_set import StorySet
from story_identity.headless.workers_command import story_files

from .inline_crew import FarWorker, QuickWorker, without_ray
from .stories import STORY, PlaceDetector, contents, settings, story

MIRA, TOM = 'the identity of "Mira"', 'the identity of "Tom"'
LONG = {**STORY, "frames": ["Mira on a beach", "Tom " + "on a beach " * 60]}


@pytest.fixture(scope="module")
def whole(toyworld_folder, tmp_path_factory):
    """The test story as one process makes it."""
    return run_story(story(), settings(toyworld_folder), tmp_path_factory.mktemp("run"), detector=PlaceDetector()).root


def make(stories, folder, out, workers=2, worker=QuickWorker, changes=None, **options):
    named = stories if isinstance(stories, dict) else {"": stories}
    return StorySet(named, settings(folder, **(changes or {})), out, worker=worker, **options).make(workers)


@pytest.mark.parametrize("kind", [QuickWorker, FarWorker])
def test_workers_come_to_the_bytes_of_one_process(whole, toyworld_folder, tmp_path, monkeypatch, kind):
    """Also those that do not see the folder, whose files are sent back."""
    given = without_ray(monkeypatch)
    assert make(story(), toyworld_folder, tmp_path, worker=kind) == []
    assert contents(tmp_path) == contents(whole)
    assert given == ["", MIRA, TOM, *(f"frame {n}" for n in (3, 1, 2, 4)), ""]


@pytest.mark.parametrize("kind", [QuickWorker, FarWorker])
def test_only_what_is_lost_is_made_again(whole, toyworld_folder, tmp_path, monkeypatch, kind):
    shutil.copytree(whole, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    portrait = folder.whole_portrait("Tom", 2)
    for path in (portrait, folder.template(0), folder.identity("Mira")):
        path.unlink()
    folder.frame(3).write_bytes(b"damaged")
    given = without_ray(monkeypatch)
    assert make(story(), toyworld_folder, folder.root, worker=kind) == []
    assert contents(folder.root) == contents(whole)
    assert sorted(given) == ["", "", "frame 1", "frame 4", MIRA, TOM]


def test_a_finished_story_needs_no_worker(whole, toyworld_folder, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path / "run")
    given = without_ray(monkeypatch)
    assert make(story(), toyworld_folder, tmp_path / "run") == []
    assert (given, contents(tmp_path / "run")) == ([], contents(whole))


def test_portraits_without_their_final_name_get_it(whole, toyworld_folder, tmp_path, monkeypatch):
    """What a worker that sees the folder leaves when it ends, and one that does not see it takes over."""
    shutil.copytree(whole, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    for number in range(1, 6):
        path = folder.whole_portrait("Mira", number)
        path.rename(folder.portrait("Mira", number))
    folder.identity("Mira").unlink()
    without_ray(monkeypatch)
    assert make(story(), toyworld_folder, folder.root, worker=FarWorker) == []
    assert contents(folder.root) == contents(whole)


def test_nothing_is_drawn_before_all_stories_are_checked(toyworld_folder, tmp_path, monkeypatch):
    """A prompt that is too long shows only with the tokenizer; the story is left out, and the others are made."""
    given = without_ray(monkeypatch)
    stories = {"good": story(), "long": story(LONG["frames"]), "last": story(["a beach at night"])}
    (failure,) = make(stories, toyworld_folder, tmp_path, workers=1)
    assert str(failure).startswith("long: frame 2: the prompt has")
    assert given[:3] == ["", "", ""]
    assert (tmp_path / "good" / "frame_0004.png").is_file()
    assert (tmp_path / "last" / "frame_0001.png").is_file()
    assert [path.name for path in (tmp_path / "long").iterdir()] == [".lock"]


def test_the_only_story_is_refused_by_an_error(toyworld_folder, tmp_path, monkeypatch):
    without_ray(monkeypatch)
    with pytest.raises(ValueError, match="frame 2: the prompt has"):
        make(story(LONG["frames"]), toyworld_folder, tmp_path)


def test_starting_over_deletes_nothing_of_a_story_that_is_refused(whole, toyworld_folder, tmp_path, monkeypatch):
    without_ray(monkeypatch)
    shutil.copytree(whole, tmp_path / "run")
    with pytest.raises(ValueError, match="frame 2: the prompt has"):
        make(story(LONG["frames"]), toyworld_folder, tmp_path / "run", overwrite=True)
    assert contents(tmp_path / "run") == contents(whole)
    given = without_ray(monkeypatch)
    assert make(story(), toyworld_folder, tmp_path / "run", overwrite=True) == []
    assert (contents(tmp_path / "run"), len(given)) == (contents(whole), 8)


@pytest.mark.parametrize("retries", [0, 2])
def test_a_frame_that_ends_its_workers_is_reported_and_the_rest_is_made(
    whole, toyworld_folder, tmp_path, monkeypatch, retries
):
    heard = []
    given = without_ray(monkeypatch, deaths=lambda label: label == "frame 3")
    (failure,) = make(story(), toyworld_folder, tmp_path, retries=retries, notice=heard.append)
    assert str(failure) == f"frame 3: it ended its worker {retries + 1} times, the last time so: it is gone."
    assert given.count("frame 3") == retries + 1
    assert heard == ["frame 3: it is gone. Another worker does it again."] * retries
    made, wanted = contents(tmp_path), contents(whole)
    assert {name for name in wanted if made.get(name) != wanted[name]} == {
        "manifest.json",
        *(f"{place}frame_0003.png" for place in ("", "layout/", "masks/", "template/")),
    }
    without_ray(monkeypatch)
    assert make(story(), toyworld_folder, tmp_path) == []
    assert contents(tmp_path) == wanted


def test_workers_that_end_now_and_then_come_to_the_same_bytes(whole, toyworld_folder, tmp_path, monkeypatch):
    """Every task's first worker ends, the check's too."""
    seen = set()
    given = without_ray(monkeypatch, deaths=lambda label: label not in seen and not seen.add(label))
    assert make(story(), toyworld_folder, tmp_path) == []
    assert contents(tmp_path) == contents(whole)
    assert {label: given.count(label) for label in given if label} == dict.fromkeys(seen - {""}, 2)


def test_a_frame_that_fails_is_reported_and_the_rest_is_made(toyworld_folder, tmp_path, monkeypatch):
    """The stories go on independently of each other."""
    make_frame = Production.make_frame

    def fail(self, frame, identities):
        if frame.index == 1:
            raise ValueError("frame 2: no woman is found")
        make_frame(self, frame, identities)

    monkeypatch.setattr(Production, "make_frame", fail)
    without_ray(monkeypatch)
    failures = make({"one": story(), "two": story(STORY["frames"][2:3])}, toyworld_folder, tmp_path)
    assert [str(each) for each in failures] == ["one: frame 2: frame 2: no woman is found"]
    assert [(tmp_path / "one" / f"frame_000{n}.png").is_file() for n in (1, 2, 3, 4)] == [True, False, True, True]
    assert (tmp_path / "two" / "frame_0001.png").is_file()


def test_without_an_identity_its_frames_are_reported_and_the_others_made(toyworld_folder, tmp_path, monkeypatch):
    find = Production.find_identity

    def fail(self, person, number):
        if person.name == "Tom":
            raise ValueError("there is no face")
        return find(self, person, number)

    monkeypatch.setattr(Production, "find_identity", fail)
    without_ray(monkeypatch)
    (failure,) = make(story(), toyworld_folder, tmp_path)
    assert str(failure) == f"{TOM}: there is no face; without it there is no frame 2, frame 4."
    assert [(tmp_path / f"frame_000{n}.png").is_file() for n in (1, 2, 3, 4)] == [True, False, True, False]


@pytest.mark.parametrize(("kind", "place"), [(QuickWorker, "production"), (FarWorker, "run_folder")])
def test_a_full_disk_ends_its_story_and_no_other(toyworld_folder, tmp_path, monkeypatch, kind, place):
    """Where the worker writes, and where the driver writes what it was sent."""
    from story_identity.headless import production, run_folder

    def full(path):
        if path.parent == tmp_path / "one" and path.name.startswith("frame_"):
            raise unwritable(path, OSError(errno.ENOSPC, "No space left on device"))

    picture, atomic_write = production.write_picture, run_folder.atomic_write
    monkeypatch.setattr(production, "write_picture", lambda path, *rest: full(path) or picture(path, *rest))
    monkeypatch.setattr(run_folder, "atomic_write", lambda path: full(path) or atomic_write(path))
    without_ray(monkeypatch)
    frames = ["a beach at night", "a forest", "snow"]
    failures = make({"one": story(frames), "two": story(frames)}, toyworld_folder, tmp_path, workers=1, worker=kind)
    assert [str(each).partition(" cannot be written: ")[0] for each in failures] == [
        f"one: frame 1: {tmp_path / 'one' / 'frame_0001.png'}"
    ]
    assert "Make room there" in failures[0].why
    assert not (tmp_path / "one" / "template" / "frame_0002.png").exists()
    assert (tmp_path / "two" / "frame_0003.png").is_file()


def test_files_that_are_lost_again_and_again_end_the_story(toyworld_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Production, "make_frame", lambda self, frame, identities: None)
    given = without_ray(monkeypatch)
    (failure,) = make(story(["a beach at night"]), toyworld_folder, tmp_path)
    assert 'are lost as soon as they are made: "frame_0001.png"' in failure.why
    assert given.count("frame 1") == 3


def test_a_folder_in_which_another_run_works_is_refused(toyworld_folder, tmp_path, monkeypatch):
    without_ray(monkeypatch)
    with RunFolder(tmp_path / "two").locked():
        (failure,) = make({"one": story(["snow"]), "two": story(["snow"])}, toyworld_folder, tmp_path)
    assert str(failure).startswith(f"two: Another run is working in {tmp_path / 'two'}")
    assert (tmp_path / "one" / "frame_0001.png").is_file()


def test_frames_drawn_together_are_refused(toyworld_folder, tmp_path):
    with pytest.raises(ValueError, match="drawn together are one piece of work: leave out --workers"):
        make(story(), toyworld_folder, tmp_path, changes={"together": True})


def test_a_host_with_other_files_is_refused(toyworld_folder, tmp_path, monkeypatch):
    chosen = settings(toyworld_folder)
    other = {**chosen.record(), "steps": 5}
    failed = worker.Worker(chosen, other, tmp_path).open(tmp_path / "none", "")
    assert (
        "the files here differ from those where the run was started: settings, steps: it was 5, now it is 4"
        in failed.why
    )


def test_all_of_a_set_is_named(tmp_path):
    for name in ("b", "a"):
        (tmp_path / f"{name}.json").write_text(json.dumps(STORY))
    (tmp_path / "list.txt").write_text("# two of them\nb.json\n\n../far/c.json\n")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (tmp_path / "none").mkdir()
    assert story_files([tmp_path]) == [tmp_path / "a.json", tmp_path / "b.json"]
    assert story_files([tmp_path / "list.txt"]) == [tmp_path / "b.json", tmp_path / "../far/c.json"]
    for wrong, said in (("empty.txt", "lists no story file"), ("none", "has no story file")):
        with pytest.raises(ValueError, match=said):
            story_files([tmp_path / wrong])


def run(*words, **options):
    from typer.testing import CliRunner

    return CliRunner().invoke(cli.app, ["run", *map(str, words)])


def test_the_command_makes_a_set_and_names_what_it_did_not(toyworld_folder, tmp_path, monkeypatch):
    from .stories import options_of

    monkeypatch.setattr(worker.Worker, "_open_studio", QuickWorker._open_studio)
    without_ray(monkeypatch)
    (tmp_path / "stories").mkdir()
    (tmp_path / "stories" / "good.json").write_text(json.dumps({**STORY, "frames": ["snow"]}))
    (tmp_path / "stories" / "bad.json").write_text("{")
    words = ["--out", tmp_path / "out", *options_of(settings(toyworld_folder)), "--workers", 2]
    done = run(tmp_path / "stories", *words)
    assert done.exit_code == 1, done.output
    assert "Not made: bad:" in done.stderr
    assert (tmp_path / "out" / "good" / "frame_0001.png").is_file()
    (tmp_path / "stories" / "bad.json").unlink()
    done = run(tmp_path / "stories", *words)
    assert (done.exit_code, done.stdout) == (0, f"1 stories are in {tmp_path / 'out'}\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["one.json", "two.json"], "Several stories are work for --workers"),
        (["."], "Several stories are work for --workers"),
        (["list.txt"], "Several stories are work for --workers"),
        (["one.json", "--retries", "2"], "--retries is for --workers and --ray"),
        (["one.json", "--workers", "2", "--device", "mps"], "device is"),
        (["one.json", "one.json", "--workers", "2"], "one.json"),
    ],
)
def test_what_makes_no_sense_is_refused(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.json").write_text(json.dumps(STORY))
    done = run(*words, "--checkpoint", "toyworld", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert said in done.stderr
    assert not (tmp_path / "out").exists()


def test_without_ray_one_sentence_says_how_to_get_it(tmp_path, monkeypatch, toyworld_folder):
    import sys

    from story_identity.headless.crew import import_ray

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r'Several workers need Ray: pip install "storyidentity\[cluster\]"'):
        import_ray()
