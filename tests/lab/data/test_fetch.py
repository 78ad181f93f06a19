"""Downloads from a server on this machine: they resume where they broke off, and are checked."""

import hashlib
import io
import os
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fluctua.files import FileError
from fluctua.lab.data import fetch
from fluctua.lab.data.fetch import ARCHIVES, Archive, obtain

CONTENT = bytes(range(256)) * 5000  # more than one chunk


def zipped(name: str = "words.h5") -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        archive.writestr(name, CONTENT)
    return raw.getvalue()


def tarred(name: str = "gestures/user01/0.npy") -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(CONTENT)
        archive.addfile(member, io.BytesIO(CONTENT))
    return raw.getvalue()


class Server:
    """Serves one file.

    Attributes:
        content: of the file.
        stop: bytes after which it hangs up; None to send all.
        ranges: whether it can go on from the middle.
        asked: the range of each request.
    """

    def __init__(self, content: bytes) -> None:
        self.content, self.stop, self.ranges = content, len(content), True
        self.asked: list[str | None] = []
        self.url = ""


@pytest.fixture
def serve() -> Iterator[Callable[[bytes], Server]]:
    running: list[ThreadingHTTPServer] = []

    def start(content: bytes) -> Server:
        state = Server(content)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers["Range"]
                state.asked.append(asked)
                start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and state.ranges else 0
                if start >= len(state.content):
                    self.send_error(416)
                    return
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(state.content) - start))
                self.end_headers()
                self.wfile.write(state.content[start : state.stop])

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        running.append(server)
        state.url = f"http://127.0.0.1:{server.server_port}/file"
        return state

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def archive(server: Server, name: str = "words.h5.zip", holds: str = "words.h5") -> Archive:
    return Archive(server.url, name, hashlib.md5(server.content).hexdigest(), holds)


def ignore(name: str, there: int, total: int | None) -> None:
    pass


Serve = Callable[[bytes], Server]


@pytest.mark.parametrize(
    ("content", "name", "holds", "inside"),
    [(zipped(), "words.h5.zip", "words.h5", "."), (tarred(), "g.tar.gz", "gestures", "user01/0.npy")],
    ids=["zip", "tar"],
)
def test_a_data_set_is_unpacked_and_nothing_else_is_left(
    content: bytes, name: str, holds: str, inside: str, serve: Serve, tmp_path: Path
) -> None:
    wanted = archive(serve(content), name, holds)
    target = obtain(wanted, tmp_path, ignore)
    assert (target / inside).read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == [holds]


def test_what_is_there_is_not_fetched_again(serve: Serve, tmp_path: Path) -> None:
    server = serve(zipped())
    for _ in range(2):
        obtain(archive(server), tmp_path, ignore)
    assert len(server.asked) == 1


def test_a_download_goes_on_where_it_broke_off(serve: Serve, tmp_path: Path) -> None:
    server, seen = serve(zipped()), []
    size = len(server.content)
    for server.stop in (1000, 700_000):
        with pytest.raises(OSError, match=f"broke off after {server.stop} of {size} bytes: call again to resume"):
            obtain(archive(server), tmp_path, ignore)
    server.stop = size
    target = obtain(archive(server), tmp_path, lambda *progress: seen.append(progress))
    assert target.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000-", "bytes=700000-"]
    assert seen[-1] == ("words.h5.zip", size, size)
    assert [there for _, there, _ in seen] == sorted(there for _, there, _ in seen)


def test_a_server_that_cannot_go_on_sends_all_again(serve: Serve, tmp_path: Path) -> None:
    server = serve(zipped())
    server.ranges, server.stop = False, 1000
    with pytest.raises(OSError, match="broke off after 1000"):
        obtain(archive(server), tmp_path, ignore)
    server.stop = len(server.content)
    assert obtain(archive(server), tmp_path, ignore).read_bytes() == CONTENT


def test_a_complete_part_needs_no_more(serve: Serve, tmp_path: Path) -> None:
    server = serve(zipped())
    (tmp_path / "words.h5.zip.part").write_bytes(server.content)
    assert obtain(archive(server), tmp_path, ignore).read_bytes() == CONTENT


def test_a_wrong_checksum_is_refused_and_the_file_deleted(serve: Serve, tmp_path: Path) -> None:
    server = serve(zipped())
    wanted = archive(server)
    server.content = server.content[:-1] + b"?"
    with pytest.raises(ValueError, match=f"has the checksum .*, not {wanted.md5}, so it was deleted: call again"):
        obtain(wanted, tmp_path, ignore)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", [zipped()[:-9], b"", zipped("other.h5")], ids=["cut", "empty", "another"])
@pytest.mark.parametrize("name", ["words.h5.zip", "words.h5.zip.part"])
def test_a_wrong_archive_that_is_there_already_is_never_unpacked(
    there: bytes, name: str, serve: Serve, tmp_path: Path
) -> None:
    server = serve(zipped())
    server.ranges = False
    (tmp_path / name).write_bytes(there)
    assert obtain(archive(server), tmp_path, ignore).read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["words.h5"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
@pytest.mark.parametrize("name", ["words.h5.zip", "words.h5.zip.part"])
def test_a_pipe_in_the_place_of_an_archive_is_refused(name: str, serve: Serve, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(FileError, match=f"{name} is a folder, pipe or device"):
        obtain(archive(serve(zipped())), tmp_path, ignore)


def test_a_wrong_part_that_the_server_takes_for_the_whole_is_deleted(serve: Serve, tmp_path: Path) -> None:
    server = serve(zipped())
    (tmp_path / "words.h5.zip.part").write_bytes(b"?" * len(server.content))
    with pytest.raises(ValueError, match="so it was deleted: call again"):
        obtain(archive(server), tmp_path, ignore)
    assert obtain(archive(server), tmp_path, ignore).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (zipped()[:-9], "words.h5.zip"),
        (zipped().replace(CONTENT[:300], bytes(300), 1), "words.h5.zip"),
        (tarred()[:2000], "g.tar.gz"),
    ],
    ids=["a zip cut short", "a flipped zip", "a tar cut short"],
)
def test_a_damaged_archive_is_one_sentence(content: bytes, name: str, serve: Serve, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot be unpacked \(.*\): delete it and call again") as raised:
        obtain(archive(serve(content), name, "gestures"), tmp_path, ignore)
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_two_at_once_are_one_and_a_sentence(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(zipped())
    monkeypatch.setattr(fetch, "ARCHIVES", {"words": (archive(server),)})
    found: list[str] = []

    def another(*_: object) -> None:
        def call() -> None:
            try:
                fetch.fetch("words", tmp_path)
            except OSError as error:
                found.append(str(error))

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()

    (path,) = fetch.fetch("words", tmp_path, progress=another)
    assert path.read_bytes() == CONTENT
    assert found
    assert all(f"{tmp_path} is in use by another process: wait until it ends" in said for said in found)
    assert len(server.asked) == 1


def test_an_archive_of_something_else_is_refused(serve: Serve, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"words\.h5\.zip holds no words\.h5: unpack it by hand"):
        obtain(archive(serve(zipped("other.h5"))), tmp_path, ignore)


def test_an_archive_does_not_write_outside_of_its_folder(serve: Serve, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    with pytest.raises(ValueError, match=r"cannot be unpacked .*outside"):
        obtain(archive(serve(tarred("../../evil")), "g.tar.gz", "gestures"), inside, ignore)
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]


def test_a_server_out_of_reach_is_said_in_one_sentence(serve: Serve, tmp_path: Path) -> None:
    server = serve(zipped())
    nowhere = Archive(server.url.replace("127.0.0.1", "127.0.0.1:1/"), "a.zip", "0", "a")
    with pytest.raises(OSError, match=r"cannot be read \(.*\): call again to resume") as raised:
        obtain(nowhere, tmp_path, ignore)
    assert "\n" not in str(raised.value)


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no data set 'shdd' is known: choose one of shd, ssc, nmnist, dvs-gesture"):
        fetch.fetch("shdd", tmp_path)


def test_the_command_prints_where_the_files_are(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(zipped())
    monkeypatch.setattr(fetch, "ARCHIVES", {"words": (archive(server),)})
    fetch.main(["words", str(tmp_path / "new")])
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'new' / 'words.h5'}\n"
    assert "words.h5.zip: 1 of 1 MB" in err
    server.stop = 1000
    with pytest.raises(SystemExit, match=r"fluctua: http.* broke off after 1000 of"):
        fetch.main(["words", str(tmp_path / "other")])


def test_every_address_is_encrypted_and_every_checksum_whole() -> None:
    every = [archive for archives in ARCHIVES.values() for archive in archives]
    assert all(archive.url.startswith("https://") for archive in every)
    assert all(len(bytes.fromhex(archive.md5)) == 16 for archive in every)
    assert len({archive.md5 for archive in every}) == len({archive.url for archive in every}) == len(every) == 10
