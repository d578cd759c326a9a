"""Downloads. Laws first: however it is interrupted it ends in the same bytes, and a wrong file never arrives."""

import dataclasses
import errno
import hashlib
import http.server
import os
import shutil
import threading
import types
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from story_identity.core import weights, weights_download
from story_identity.core.weights import WeightError, WeightFile
from story_identity.core.weights_download import DownloadError
from story_identity.core.weights_format import TORCH_MAGIC

CONTENT = TORCH_MAGIC + (bytes(range(251)) * 4 + b"end")[len(TORCH_MAGIC) :]
OTHER = TORCH_MAGIC + CONTENT[: len(TORCH_MAGIC) - 1 : -1]
TOY = WeightFile(
    id="toy",
    name="toy.bin",
    folder="toys",
    url="https://example.org/toy.bin",
    size=len(CONTENT),
    size_about=None,
    min_size=None,
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
    monkeypatch.setattr(weights_download, "CHUNK_BYTES", 97)
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
        weights_download.download(weight, tmp_path)
    assert (tmp_path / "toy.bin.part").read_bytes() == CONTENT[:cut_at]
    assert not (tmp_path / "toy.bin").exists()
    shelf.cut_at = None
    assert weights_download.download(weight, tmp_path) == tmp_path / "toy.bin"
    assert (tmp_path / "toy.bin").read_bytes() == CONTENT
    assert [asked.get("Range") for asked in shelf.asked] == [None, f"bytes={cut_at}-"]
    assert names(tmp_path) == ["toy.bin"]


def test_a_file_that_is_there_and_right_is_not_fetched_again(tmp_path: Path, shelf: Shelf):
    for _ in range(2):
        weights_download.download(shelf.weight(), tmp_path / "new" / "folder")
    assert len(shelf.asked) == 1
    assert names(tmp_path / "new" / "folder") == ["toy.bin"]


def test_progress_counts_up_to_the_whole(tmp_path: Path, shelf: Shelf):
    seen = []
    weights_download.download(shelf.weight(), tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == [*range(97, len(CONTENT), 97), len(CONTENT)]
    assert {total for _, total in seen} == {len(CONTENT)}


def test_two_downloads_of_one_file_do_not_meet(tmp_path: Path, shelf: Shelf):
    refusals = []

    def start_another(done: int, total: int | None) -> None:
        with pytest.raises(DownloadError, match="Another download of toy.bin is under way") as refusal:
            weights_download.download(shelf.weight(), tmp_path, opener=refuse_to_connect)
        refusals.append(refusal)

    weights_download.download(shelf.weight(), tmp_path, progress=start_another)
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
        weights_download.download(shelf.weight(), tmp_path, progress=stop)
    assert names(tmp_path) == ["toy.bin.part"]
    weights_download.download(shelf.weight(), tmp_path)
    assert shelf.asked[-1]["Range"] == "bytes=97-"


# --- bad cases


def test_non_commercial_files_need_the_licence_accepted_before_anything_happens(tmp_path: Path, shelf: Shelf):
    weight = shelf.weight(non_commercial=True, licence="Research only")
    with pytest.raises(DownloadError, match="not for commercial use; its licence is: Research only"):
        weights_download.download(weight, tmp_path / "toys", opener=refuse_to_connect)
    assert names(tmp_path) == []
    weights_download.download(weight, tmp_path / "toys", accept_licence=True)
    assert (tmp_path / "toys" / "toy.bin").read_bytes() == CONTENT


def test_a_wrong_hash_leaves_nothing(tmp_path: Path, shelf: Shelf):
    shelf.content = CONTENT[:-1] + b"!"
    found = hashlib.sha256(shelf.content).hexdigest()
    with pytest.raises(WeightError, match=rf"was deleted.*expected {TOY.sha256}, found {found}"):
        weights_download.download(shelf.weight(), tmp_path)
    assert names(tmp_path) == []


def test_a_server_with_another_size_is_refused_before_the_transfer(tmp_path: Path, shelf: Shelf):
    shelf.content = CONTENT + b"more"
    with pytest.raises(DownloadError, match="the server has 1011 bytes, expected 1007"):
        weights_download.download(shelf.weight(), tmp_path)
    shelf.gives_length = False
    with pytest.raises(WeightError, match="size differs"):
        weights_download.download(shelf.weight(), tmp_path)
    assert names(tmp_path) == []


def test_a_wrong_file_of_the_users_is_left_alone(tmp_path: Path, shelf: Shelf):
    (tmp_path / "toy.bin").write_bytes(b"mine")
    with pytest.raises(WeightError, match="size differs.*left as it is"):
        weights_download.download(shelf.weight(), tmp_path, opener=refuse_to_connect)
    assert (tmp_path / "toy.bin").read_bytes() == b"mine"
    assert names(tmp_path) == ["toy.bin"]


def set_free_space(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=free))


def test_space_is_checked_before_the_transfer(tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch):
    set_free_space(monkeypatch, len(CONTENT) + weights_download.SPARE_BYTES - 1)
    with pytest.raises(DownloadError, match="Not enough space.*1007 bytes are still to come"):
        weights_download.download(shelf.weight(), tmp_path, opener=refuse_to_connect)
    with pytest.raises(DownloadError, match="Not enough space"):
        weights_download.download(shelf.weight(size=None), tmp_path)
    assert names(tmp_path) == []
    (tmp_path / "toy.bin.part").write_bytes(CONTENT[:1])
    weights_download.download(shelf.weight(), tmp_path)
    assert (tmp_path / "toy.bin").read_bytes() == CONTENT


def test_a_server_that_ignores_ranges_is_started_over(tmp_path: Path, shelf: Shelf):
    (tmp_path / "toy.bin.part").write_bytes(CONTENT[:300])
    shelf.knows_ranges = False
    weights_download.download(shelf.weight(), tmp_path)
    assert shelf.asked[0]["Range"] == "bytes=300-"
    assert (tmp_path / "toy.bin").read_bytes() == CONTENT


def test_a_file_changed_at_the_server_is_started_over(tmp_path: Path, shelf: Shelf):
    weight = shelf.weight(size=None, sha256=None, sha256_source=None)
    shelf.cut_at = 300
    with pytest.raises(DownloadError, match="stopped after 300"):
        weights_download.download(weight, tmp_path)
    shelf.cut_at, shelf.content, shelf.headers = None, OTHER, {"ETag": '"two"'}
    weights_download.download(weight, tmp_path)
    assert shelf.asked[-1]["If-Range"] == '"one"'
    assert (tmp_path / "toy.bin").read_bytes() == OTHER


def test_a_part_that_nothing_vouches_for_is_started_over(tmp_path: Path, shelf: Shelf):
    (tmp_path / "toy.bin.part").write_bytes(b"something else")
    weights_download.download(shelf.weight(sha256=None, sha256_source=None), tmp_path)
    assert "Range" not in shelf.asked[0]
    assert (tmp_path / "toy.bin").read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_started_over(tmp_path: Path, shelf: Shelf):
    (tmp_path / "toy.bin.part").write_bytes(CONTENT + b"more")
    weights_download.download(shelf.weight(), tmp_path)
    (tmp_path / "toy.bin").rename(tmp_path / "toy.bin.part")
    with (tmp_path / "toy.bin.part").open("ab") as file:
        file.write(b"more")
    weights_download.download(shelf.weight(size=None), tmp_path)
    assert [asked.get("Range") for asked in shelf.asked] == [None, "bytes=1011-", None]
    assert (tmp_path / "toy.bin").read_bytes() == CONTENT


def test_a_part_that_is_already_whole_is_only_verified(tmp_path: Path, shelf: Shelf):
    (tmp_path / "toy.bin.part").write_bytes(CONTENT)
    weights_download.download(shelf.weight(), tmp_path, opener=refuse_to_connect)
    (tmp_path / "toy.bin").rename(tmp_path / "toy.bin.part")
    weights_download.download(shelf.weight(size=None), tmp_path)
    assert [asked["Range"] for asked in shelf.asked] == [f"bytes={len(CONTENT)}-"]
    assert (tmp_path / "toy.bin").read_bytes() == CONTENT


def test_an_answer_whose_end_cannot_be_known_is_refused(tmp_path: Path, shelf: Shelf):
    shelf.gives_length = False
    with pytest.raises(DownloadError, match="gives no length"):
        weights_download.download(shelf.weight(size=None, sha256=None, sha256_source=None), tmp_path)
    weights_download.download(shelf.weight(size=None), tmp_path)
    assert (tmp_path / "toy.bin").read_bytes() == CONTENT


def test_a_compressed_answer_is_refused(tmp_path: Path, shelf: Shelf):
    shelf.headers = {"Content-Encoding": "gzip"}
    with pytest.raises(DownloadError, match="compressed"):
        weights_download.download(shelf.weight(), tmp_path)


def test_a_redirect_away_from_https_is_refused(tmp_path: Path, shelf: Shelf):
    shelf.redirect = "http://example.org/toy.bin"
    with pytest.raises(DownloadError, match="http://example.org/toy.bin: not an https address"):
        weights_download.download(shelf.weight(), tmp_path)
    with pytest.raises(DownloadError, match="not an https address"):
        weights_download.download(shelf.weight(url="ftp://example.org/toy.bin"), tmp_path, opener=refuse_to_connect)
    assert names(tmp_path) == []


def test_a_refusing_server_is_quoted(tmp_path: Path, shelf: Shelf):
    shelf.content = b""
    with pytest.raises(DownloadError, match="the server answered 416"):
        weights_download.download(shelf.weight(), tmp_path)
    assert len(shelf.asked) == 1
    assert names(tmp_path) == []


def test_a_broken_connection_is_reported(tmp_path: Path, shelf: Shelf):
    def fail(*_, **__):
        raise urllib.error.URLError("no route")

    with pytest.raises(DownloadError, match="no connection.*no route"):
        weights_download.download(shelf.weight(), tmp_path, opener=fail)
    assert names(tmp_path) == []
    with pytest.raises(DownloadError, match="stopped after 200 of 1007 bytes, which are kept.*reset"):
        weights_download.download(shelf.weight(), tmp_path, opener=CannedAnswer([CONTENT[:97], CONTENT[97:200]]))
    assert (tmp_path / "toy.bin.part").read_bytes() == CONTENT[:200]
    weights_download.download(shelf.weight(), tmp_path)
    assert (tmp_path / "toy.bin").read_bytes() == CONTENT


def test_without_a_length_the_manifests_size_tells_a_broken_transfer(tmp_path: Path, shelf: Shelf):
    shelf.gives_length, shelf.cut_at = False, 300
    with pytest.raises(DownloadError, match="stopped after 300 of 1007 bytes"):
        weights_download.download(shelf.weight(), tmp_path)
    assert (tmp_path / "toy.bin.part").read_bytes() == CONTENT[:300]


def test_a_range_answered_only_in_part_is_not_the_end(tmp_path: Path, shelf: Shelf):
    weight = shelf.weight(size=None, sha256=None, sha256_source=None)
    shelf.cut_at = 300
    with pytest.raises(DownloadError, match="stopped after 300"):
        weights_download.download(weight, tmp_path)
    capped = CannedAnswer([CONTENT[300:400], b""], 206, Content_Range="bytes 300-399/1007", Content_Length="100")
    capped.headers["ETag"] = '"one"'
    with pytest.raises(DownloadError, match="stopped after 400 of 1007"):
        weights_download.download(weight, tmp_path, opener=capped)
    assert (tmp_path / "toy.bin.part").read_bytes() == CONTENT[:400]


@pytest.mark.parametrize(("start", "etag"), [(300, '"two"'), (7, '"one"')])
def test_a_range_of_another_version_or_place_is_not_appended(tmp_path: Path, shelf: Shelf, start: int, etag: str):
    weight = shelf.weight(sha256=None, sha256_source=None)
    shelf.cut_at = 300
    with pytest.raises(DownloadError, match="stopped after 300"):
        weights_download.download(weight, tmp_path)
    other = CannedAnswer([CONTENT[start:], b""], 206, Content_Range=f"bytes {start}-1006/1007", ETag=etag)
    with pytest.raises(DownloadError, match="unexpected answer 206; the next attempt starts from the beginning"):
        weights_download.download(weight, tmp_path, opener=other)
    assert names(tmp_path) == []


def test_a_body_without_end_is_cut_off(tmp_path: Path, shelf: Shelf):
    endless = CannedAnswer([CONTENT, b"more", b"and more"])
    with pytest.raises(WeightError, match="size differs"):
        weights_download.download(shelf.weight(), tmp_path, opener=endless)
    assert endless.pieces == [b"and more"]
    assert names(tmp_path) == []


# --- files that no hash vouches for

WEB_PAGE = b"<!doctype html>\n<html><body>The model is gated. Sign in first.</body></html>\n"
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 6938078334\n"
UNHASHED = [weight for weight in weights.load_manifest().values() if weight.sha256 is None]


@pytest.mark.parametrize("content", [WEB_PAGE, LFS_POINTER, b'{"error": "Invalid token"}', b"no such file\n", b""])
@pytest.mark.parametrize("weight", UNHASHED, ids=lambda weight: weight.id)
@pytest.mark.parametrize("gives_length", [True, False])
def test_no_shipped_file_without_a_hash_can_be_something_else(
    tmp_path: Path, weight: WeightFile, content: bytes, gives_length: bool
):
    headers = {"Content_Length": str(len(content))} if gives_length else {"Transfer_Encoding": "chunked"}
    with pytest.raises((DownloadError, WeightError)) as refusal:
        weights_download.download(weight, tmp_path, opener=CannedAnswer([content, b""], 200, **headers))
    assert weight.url in str(refusal.value)
    assert names(tmp_path) == []


def test_a_web_page_of_any_size_is_no_weight_file(tmp_path: Path, shelf: Shelf):
    shelf.content = WEB_PAGE + b"<p>" * 1000
    weight = shelf.weight(size=None, min_size=100, sha256=None, sha256_source=None)
    with pytest.raises(WeightError, match=r"did not give the expected file; it was deleted.*it is a web page"):
        weights_download.download(weight, tmp_path)
    assert names(tmp_path) == []
    with pytest.raises(DownloadError, match="the server has 3077 bytes, expected at least 5000: .*perhaps a web page"):
        weights_download.download(dataclasses.replace(weight, min_size=5000), tmp_path)
    assert names(tmp_path) == []
    with pytest.raises(WeightError, match=r"sha256 differs.*it is a web page"):
        weights_download.download(shelf.weight(size=None), tmp_path)
    assert names(tmp_path) == []


def test_a_web_page_that_was_put_in_place_is_recognised(tmp_path: Path, shelf: Shelf):
    (tmp_path / "toy.bin").write_bytes(WEB_PAGE)
    weight = shelf.weight(size=None, min_size=1, sha256=None, sha256_source=None)
    with pytest.raises(WeightError, match=r"toy\.bin is not the content of toy\.bin: it is a web page\. It was left"):
        weights_download.download(weight, tmp_path, opener=refuse_to_connect)
    assert (tmp_path / "toy.bin").read_bytes() == WEB_PAGE


def test_a_body_without_length_stops_before_the_disk_is_full(tmp_path: Path, shelf: Shelf, monkeypatch):
    set_free_space(monkeypatch, weights_download.SPARE_BYTES + 50)
    endless = CannedAnswer([CONTENT[:40], CONTENT[40:100], b""], Transfer_Encoding="chunked")
    with pytest.raises(DownloadError, match="Not enough space"):
        weights_download.download(shelf.weight(size=None), tmp_path, opener=endless)
    assert (tmp_path / "toy.bin.part").read_bytes() == CONTENT[:40]


# --- answers that are malformed


@pytest.mark.parametrize("etag", ["", "W/weak", '"two\nlines"', "\ufffd", '"' + "x" * 5])
def test_a_damaged_note_of_the_etag_starts_over(tmp_path: Path, shelf: Shelf, etag: str):
    (tmp_path / "toy.bin.part").write_bytes(CONTENT[:300])
    (tmp_path / "toy.bin.part.etag").write_text(etag, encoding="utf-8")
    weights_download.download(shelf.weight(sha256=None, sha256_source=None), tmp_path)
    assert "Range" not in shelf.asked[0]
    assert (tmp_path / "toy.bin").read_bytes() == CONTENT
    assert names(tmp_path) == ["toy.bin"]


@pytest.mark.parametrize("length", ["\u00b2", "-1", "1e3", "9" * 5000])
def test_a_length_that_is_no_number_counts_as_none(tmp_path: Path, shelf: Shelf, length: str):
    answer = CannedAnswer([CONTENT, b""], Content_Length=length)
    with pytest.raises(DownloadError, match="gives no length"):
        weights_download.download(
            shelf.weight(size=None, min_size=1, sha256=None, sha256_source=None), tmp_path, opener=answer
        )
    weights_download.download(shelf.weight(), tmp_path, opener=answer)
    assert (tmp_path / "toy.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "address", ["http://[broken", "https://example.org/\x1b[31m" + "x" * 9000, "file:///etc/passwd"]
)
def test_a_redirect_to_what_is_no_address_is_one_sentence(tmp_path: Path, shelf: Shelf, address: str):
    shelf.redirect = address
    with pytest.raises(DownloadError) as refusal:
        weights_download.download(shelf.weight(), tmp_path)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 600
    assert names(tmp_path) == []


def test_a_redirect_leads_to_this_machine_only_from_it():
    follow = weights_download.HttpsRedirects().redirect_request
    local, away = "http://127.0.0.1:1/toy.bin", "https://example.org/toy.bin"
    for start, end in ((local, local), (local, away), (away, away)):
        assert follow(urllib.request.Request(start), None, 302, "Found", {}, end).full_url == end
    with pytest.raises(DownloadError, match="http://127.0.0.1:1/toy.bin: not an https address"):
        follow(urllib.request.Request(away), None, 302, "Found", {}, local)


# --- what the file system refuses


@pytest.mark.parametrize("name", ["toy.bin", "toy.bin.part", "toy.bin.part.etag", "toy.bin.part.lock"])
def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path, shelf: Shelf, name: str):
    (tmp_path / name).mkdir()
    for weight in (shelf.weight(), shelf.weight(sha256=None, sha256_source=None)):
        with pytest.raises(
            DownloadError, match=rf"{name} is a folder, and a file is to take that place: move or rename"
        ):
            weights_download.download(weight, tmp_path, opener=refuse_to_connect)
    assert names(tmp_path) == [name]


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path, shelf: Shelf):
    (tmp_path / "models").write_text("not a folder")
    for folder in (tmp_path / "models", tmp_path / "models" / "toys"):
        with pytest.raises(DownloadError, match=r"models.* cannot be made: .*; move or rename the file"):
            weights_download.download(shelf.weight(), folder, opener=refuse_to_connect)


def test_a_name_that_is_too_long_is_one_sentence(tmp_path: Path, shelf: Shelf):
    with pytest.raises(DownloadError, match="cannot be made: File name too long") as refusal:
        weights_download.download(shelf.weight(), tmp_path / ("x" * 5000), opener=refuse_to_connect)
    assert len(str(refusal.value)) < 1500


def test_a_read_only_folder_is_named(tmp_path: Path, shelf: Shelf):
    folder = tmp_path / "toys"
    folder.mkdir()
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write everywhere")
    for place in (folder, folder / "below"):
        with pytest.raises(DownloadError, match="Permission denied; choose a folder that you may write to"):
            weights_download.download(shelf.weight(), place, opener=refuse_to_connect)


@pytest.mark.parametrize("refused", ["toy.bin.part.lock", "toy.bin.part", "toy.bin.part.etag"])
def test_a_file_that_may_not_be_written_is_named(tmp_path: Path, shelf: Shelf, monkeypatch, refused: str):
    opened = os.open

    def refuse(path, *arguments, **options):
        if str(path).endswith(refused):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr("io.open", lambda path, *given, **options: open(path, *given, opener=refuse, **options))
    with pytest.raises(DownloadError, match=rf"{refused} cannot be written: Permission denied; choose a folder"):
        weights_download.download(shelf.weight(sha256=None, sha256_source=None), tmp_path)
    monkeypatch.undo()
    assert not (tmp_path / "toy.bin").exists()


def test_a_full_disk_is_named_and_the_next_download_continues(tmp_path: Path, shelf: Shelf, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)  # file systems that allocate late say it here
        with pytest.raises(
            DownloadError, match=r"toy\.bin\.part cannot be written: No space left on device; make room"
        ):
            weights_download.download(shelf.weight(), tmp_path)
    (tmp_path / "toy.bin.part").write_bytes(CONTENT[:300])
    weights_download.download(shelf.weight(), tmp_path)
    assert shelf.asked[-1]["Range"] == "bytes=300-"
    assert names(tmp_path) == ["toy.bin"]


def test_a_file_that_the_file_system_cannot_hold_is_named_and_what_arrived_is_kept(tmp_path: Path, shelf: Shelf):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.raises(
            DownloadError, match=r"toy\.bin\.part cannot be written: File too large; choose a folder on"
        ):
            weights_download.download(shelf.weight(), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "toy.bin.part").read_bytes() == CONTENT[:500]
    weights_download.download(shelf.weight(), tmp_path)
    assert (tmp_path / "toy.bin").read_bytes() == CONTENT


def test_a_part_that_cannot_be_read_is_kept(tmp_path: Path, shelf: Shelf, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(weights_download, "verify", fail)
        with pytest.raises(DownloadError, match=r"toy\.bin\.part cannot be read: Input/output error"):
            weights_download.download(shelf.weight(), tmp_path)
    assert (tmp_path / "toy.bin.part").read_bytes() == CONTENT
    weights_download.download(shelf.weight(), tmp_path, opener=refuse_to_connect)
    assert names(tmp_path) == ["toy.bin"]


def test_the_lock_file_of_a_process_that_died_stops_nobody(tmp_path: Path, shelf: Shelf):
    (tmp_path / "toy.bin.part.lock").touch()
    weights_download.download(shelf.weight(), tmp_path)
    assert names(tmp_path) == ["toy.bin"]
