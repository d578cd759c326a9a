"""Downloads. Laws first: however it is interrupted it ends in the same bytes, and a wrong file never arrives."""

import dataclasses
import hashlib
import http.server
import shutil
import threading
import types
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest
from story_identity.core import weights
from story_identity.core.weights import DownloadError, WeightError, WeightFile

CONTENT = bytes(range(251)) * 4 + b"end"
TOY = WeightFile(
    id="toy",
    name="toy.bin",
    folder="toys",
    url="https://example.org/toy.bin",
    size=len(CONTENT),
    size_about=None,
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    sha256_source="publisher",
    licence="Apache-2.0",
    licence_note=None,
    non_commercial=False,
    used_by=("a workflow",),
)


class Shelf(http.server.HTTPServer):
    """Serves CONTENT on this machine, as badly as a test asks, and remembers what was asked."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), ShelfHandler)
        self.content = CONTENT
        self.cut_at: int | None = None
        self.knows_ranges = True
        self.headers: dict[str, str] = {"ETag": '"one"'}
        self.gives_length = True
        self.redirect: str | None = None
        self.asked: list[dict[str, str]] = []

    def weight(self, **changes) -> WeightFile:
        url = f"http://127.0.0.1:{self.server_port}/toy.bin"
        return dataclasses.replace(TOY, **({"url": url} | changes))


class ShelfHandler(http.server.BaseHTTPRequestHandler):
    server: Shelf

    def do_GET(self):  # noqa: N802 - the name http.server looks for
        shelf = self.server
        shelf.asked.append(dict(self.headers))
        start, content = 0, shelf.content
        same = self.headers.get("If-Range") in (None, shelf.headers.get("ETag"))
        if shelf.knows_ranges and same and "Range" in self.headers:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        if shelf.redirect:
            self.send_response(302)
            self.send_header("Location", shelf.redirect)
        elif start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
        else:
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            if shelf.gives_length:
                self.send_header("Content-Length", str(len(content) - start))
        for name, value in shelf.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if start < len(content) and not shelf.redirect:
            self.wfile.write(content[start : shelf.cut_at])

    def log_message(self, format, *args):  # noqa: A002 - the base class's name for it
        pass


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(weights, "CHUNK_BYTES", 97)
    with Shelf() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class CannedAnswer:
    """An opener and its answer in one; when the pieces are used up the connection breaks."""

    def __init__(self, pieces: list[bytes], status: int = 200, **headers: str):
        self.pieces, self.status = list(pieces), status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def __call__(self, request: object, timeout: float):
        return self

    def read(self, _: int) -> bytes:
        if not self.pieces:
            raise ConnectionResetError("reset")
        return self.pieces.pop(0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def refuse_to_connect(*_, **__):
    raise AssertionError("a connection was made")


@pytest.mark.parametrize("known", [{}, {"size": None}, {"sha256": None, "sha256_source": None}])
@pytest.mark.parametrize("cut_at", [1, 97, 500, len(CONTENT) - 1])
def test_an_interrupted_download_continues_to_the_same_bytes(tmp_path: Path, shelf: Shelf, cut_at: int, known: dict):
    weight = shelf.weight(**known)
    shelf.cut_at = cut_at
    with pytest.raises(DownloadError, match=f"stopped after {cut_at} of {len(CONTENT)} bytes"):
        weights.download(weight, tmp_path)
    assert (tmp_path / "toy.bin.part").read_bytes() == CONTENT[:cut_at]
    assert not (tmp_path / "toy.bin").exists()
    shelf.cut_at = None
    assert weights.download(weight, tmp_path) == tmp_path / "toy.bin"
    assert (tmp_path / "toy.bin").read_bytes() == CONTENT
    assert [asked.get("Range") for asked in shelf.asked] == [None, f"bytes={cut_at}-"]
    assert names(tmp_path) == ["toy.bin"]


def test_a_file_that_is_there_and_right_is_not_fetched_again(tmp_path: Path, shelf: Shelf):
    for _ in range(2):
        weights.download(shelf.weight(), tmp_path / "new" / "folder")
    assert len(shelf.asked) == 1
    assert names(tmp_path / "new" / "folder") == ["toy.bin"]


def test_progress_counts_up_to_the_whole(tmp_path: Path, shelf: Shelf):
    seen = []
    weights.download(shelf.weight(), tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == [*range(97, len(CONTENT), 97), len(CONTENT)]
    assert {total for _, total in seen} == {len(CONTENT)}


def test_two_downloads_of_one_file_do_not_meet(tmp_path: Path, shelf: Shelf):
    refusals = []

    def start_another(done: int, total: int | None) -> None:
        with pytest.raises(DownloadError, match="Another download of toy.bin is under way") as refusal:
            weights.download(shelf.weight(), tmp_path, opener=refuse_to_connect)
        refusals.append(refusal)

    weights.download(shelf.weight(), tmp_path, progress=start_another)
    assert refusals
    assert len(shelf.asked) == 1
    assert (tmp_path / "toy.bin").read_bytes() == CONTENT
    assert names(tmp_path) == ["toy.bin"]


def test_stopping_from_progress_keeps_the_part_and_frees_the_lock(tmp_path: Path, shelf: Shelf):
    class InterruptedByUserError(Exception):
        pass

    def stop(done: int, total: int | None) -> None:
        raise InterruptedByUserError

    with pytest.raises(InterruptedByUserError):
        weights.download(shelf.weight(), tmp_path, progress=stop)
    assert names(tmp_path) == ["toy.bin.part"]
    weights.download(shelf.weight(), tmp_path)
    assert shelf.asked[-1]["Range"] == "bytes=97-"


# --- bad cases


def test_non_commercial_files_need_the_licence_accepted_before_anything_happens(tmp_path: Path, shelf: Shelf):
    weight = shelf.weight(non_commercial=True, licence="Research only")
    with pytest.raises(DownloadError, match="not for commercial use; its licence is: Research only"):
        weights.download(weight, tmp_path / "toys", opener=refuse_to_connect)
    assert names(tmp_path) == []
    weights.download(weight, tmp_path / "toys", accept_licence=True)
    assert (tmp_path / "toys" / "toy.bin").read_bytes() == CONTENT


def test_a_wrong_hash_leaves_nothing(tmp_path: Path, shelf: Shelf):
    shelf.content = CONTENT[:-1] + b"!"
    found = hashlib.sha256(shelf.content).hexdigest()
    with pytest.raises(WeightError, match=rf"was deleted.*expected {TOY.sha256}, found {found}"):
        weights.download(shelf.weight(), tmp_path)
    assert names(tmp_path) == []


def test_a_server_with_another_size_is_refused_before_the_transfer(tmp_path: Path, shelf: Shelf):
    shelf.content = CONTENT + b"more"
    with pytest.raises(DownloadError, match="the server has 1011 bytes, expected 1007"):
        weights.download(shelf.weight(), tmp_path)
    shelf.gives_length = False
    with pytest.raises(WeightError, match="size differs"):
        weights.download(shelf.weight(), tmp_path)
    assert names(tmp_path) == []


def test_a_wrong_file_of_the_users_is_left_alone(tmp_path: Path, shelf: Shelf):
    (tmp_path / "toy.bin").write_bytes(b"mine")
    with pytest.raises(WeightError, match="size differs.*left as it is"):
        weights.download(shelf.weight(), tmp_path, opener=refuse_to_connect)
    assert (tmp_path / "toy.bin").read_bytes() == b"mine"
    assert names(tmp_path) == ["toy.bin"]


def set_free_space(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=free))


def test_space_is_checked_before_the_transfer(tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch):
    set_free_space(monkeypatch, len(CONTENT) + weights.SPARE_BYTES - 1)
    with pytest.raises(DownloadError, match="Not enough space.*1007 bytes are still to come"):
        weights.download(shelf.weight(), tmp_path, opener=refuse_to_connect)
    with pytest.raises(DownloadError, match="Not enough space"):
        weights.download(shelf.weight(size=None), tmp_path)
    assert names(tmp_path) == []
    (tmp_path / "toy.bin.part").write_bytes(CONTENT[:1])
    weights.download(shelf.weight(), tmp_path)
    assert (tmp_path / "toy.bin").read_bytes() == CONTENT


def test_a_server_that_ignores_ranges_is_started_over(tmp_path: Path, shelf: Shelf):
    (tmp_path / "toy.bin.part").write_bytes(CONTENT[:300])
    shelf.knows_ranges = False
    weights.download(shelf.weight(), tmp_path)
    assert shelf.asked[0]["Range"] == "bytes=300-"
    assert (tmp_path / "toy.bin").read_bytes() == CONTENT


def test_a_file_changed_at_the_server_is_started_over(tmp_path: Path, shelf: Shelf):
    weight = shelf.weight(size=None, sha256=None, sha256_source=None)
    shelf.cut_at = 300
    with pytest.raises(DownloadError, match="stopped after 300"):
        weights.download(weight, tmp_path)
    shelf.cut_at, shelf.content, shelf.headers = None, CONTENT[::-1], {"ETag": '"two"'}
    weights.download(weight, tmp_path)
    assert shelf.asked[-1]["If-Range"] == '"one"'
    assert (tmp_path / "toy.bin").read_bytes() == CONTENT[::-1]


def test_a_part_that_nothing_vouches_for_is_started_over(tmp_path: Path, shelf: Shelf):
    (tmp_path / "toy.bin.part").write_bytes(b"something else")
    weights.download(shelf.weight(sha256=None, sha256_source=None), tmp_path)
    assert "Range" not in shelf.asked[0]
    assert (tmp_path / "toy.bin").read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_started_over(tmp_path: Path, shelf: Shelf):
    (tmp_path / "toy.bin.part").write_bytes(CONTENT + b"more")
    weights.download(shelf.weight(), tmp_path)
    (tmp_path / "toy.bin").rename(tmp_path / "toy.bin.part")
    with (tmp_path / "toy.bin.part").open("ab") as file:
        file.write(b"more")
    weights.download(shelf.weight(size=None), tmp_path)
    assert [asked.get("Range") for asked in shelf.asked] == [None, "bytes=1011-", None]
    assert (tmp_path / "toy.bin").read_bytes() == CONTENT


def test_a_part_that_is_already_whole_is_only_verified(tmp_path: Path, shelf: Shelf):
    (tmp_path / "toy.bin.part").write_bytes(CONTENT)
    weights.download(shelf.weight(), tmp_path, opener=refuse_to_connect)
    (tmp_path / "toy.bin").rename(tmp_path / "toy.bin.part")
    weights.download(shelf.weight(size=None), tmp_path)
    assert [asked["Range"] for asked in shelf.asked] == [f"bytes={len(CONTENT)}-"]
    assert (tmp_path / "toy.bin").read_bytes() == CONTENT


def test_an_answer_whose_end_cannot_be_known_is_refused(tmp_path: Path, shelf: Shelf):
    shelf.gives_length = False
    with pytest.raises(DownloadError, match="gives no length"):
        weights.download(shelf.weight(size=None, sha256=None, sha256_source=None), tmp_path)
    weights.download(shelf.weight(size=None), tmp_path)
    assert (tmp_path / "toy.bin").read_bytes() == CONTENT


def test_a_compressed_answer_is_refused(tmp_path: Path, shelf: Shelf):
    shelf.headers = {"Content-Encoding": "gzip"}
    with pytest.raises(DownloadError, match="compressed"):
        weights.download(shelf.weight(), tmp_path)


def test_a_redirect_away_from_https_is_refused(tmp_path: Path, shelf: Shelf):
    shelf.redirect = "http://example.org/toy.bin"
    with pytest.raises(DownloadError, match="http://example.org/toy.bin: not an https address"):
        weights.download(shelf.weight(), tmp_path)
    with pytest.raises(DownloadError, match="not an https address"):
        weights.download(shelf.weight(url="ftp://example.org/toy.bin"), tmp_path, opener=refuse_to_connect)
    assert names(tmp_path) == []


def test_a_refusing_server_is_quoted(tmp_path: Path, shelf: Shelf):
    shelf.content = b""
    with pytest.raises(DownloadError, match="the server answered 416"):
        weights.download(shelf.weight(), tmp_path)
    assert len(shelf.asked) == 1
    assert names(tmp_path) == []


def test_a_broken_connection_is_reported(tmp_path: Path, shelf: Shelf):
    def fail(*_, **__):
        raise urllib.error.URLError("no route")

    with pytest.raises(DownloadError, match="no connection.*no route"):
        weights.download(shelf.weight(), tmp_path, opener=fail)
    assert names(tmp_path) == []
    with pytest.raises(DownloadError, match="stopped after 200 of 1007 bytes, which are kept.*reset"):
        weights.download(shelf.weight(), tmp_path, opener=CannedAnswer([CONTENT[:97], CONTENT[97:200]]))
    assert (tmp_path / "toy.bin.part").read_bytes() == CONTENT[:200]
    weights.download(shelf.weight(), tmp_path)
    assert (tmp_path / "toy.bin").read_bytes() == CONTENT


def test_without_a_length_the_manifests_size_tells_a_broken_transfer(tmp_path: Path, shelf: Shelf):
    shelf.gives_length, shelf.cut_at = False, 300
    with pytest.raises(DownloadError, match="stopped after 300 of 1007 bytes"):
        weights.download(shelf.weight(), tmp_path)
    assert (tmp_path / "toy.bin.part").read_bytes() == CONTENT[:300]


def test_a_range_answered_only_in_part_is_not_the_end(tmp_path: Path, shelf: Shelf):
    weight = shelf.weight(size=None, sha256=None, sha256_source=None)
    shelf.cut_at = 300
    with pytest.raises(DownloadError, match="stopped after 300"):
        weights.download(weight, tmp_path)
    capped = CannedAnswer([CONTENT[300:400], b""], 206, Content_Range="bytes 300-399/1007", Content_Length="100")
    capped.headers["ETag"] = '"one"'
    with pytest.raises(DownloadError, match="stopped after 400 of 1007"):
        weights.download(weight, tmp_path, opener=capped)
    assert (tmp_path / "toy.bin.part").read_bytes() == CONTENT[:400]


@pytest.mark.parametrize(("start", "etag"), [(300, '"two"'), (7, '"one"')])
def test_a_range_of_another_version_or_place_is_not_appended(tmp_path: Path, shelf: Shelf, start: int, etag: str):
    weight = shelf.weight(sha256=None, sha256_source=None)
    shelf.cut_at = 300
    with pytest.raises(DownloadError, match="stopped after 300"):
        weights.download(weight, tmp_path)
    other = CannedAnswer([CONTENT[start:], b""], 206, Content_Range=f"bytes {start}-1006/1007", ETag=etag)
    with pytest.raises(DownloadError, match="unexpected answer 206; the next try starts anew"):
        weights.download(weight, tmp_path, opener=other)
    assert names(tmp_path) == []


def test_a_body_without_end_is_cut_off(tmp_path: Path, shelf: Shelf):
    endless = CannedAnswer([CONTENT, b"more", b"and more"])
    with pytest.raises(WeightError, match="size differs"):
        weights.download(shelf.weight(), tmp_path, opener=endless)
    assert endless.pieces == [b"and more"]
    assert names(tmp_path) == []
