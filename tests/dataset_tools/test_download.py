"""Downloads from a server on loopback that breaks off, resumes, changes its mind and refuses."""

import contextlib
import http.server
import threading

import pytest

from dataset_tools import amazon
from dataset_tools.common import UserError
from dataset_tools.download import download

BODY = bytes(range(256)) * 4000


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.asked.append(asked)
        if server.status or len(server.asked) > server.most:
            self.send_error(server.status or 404)
            return
        start = 0
        if asked and server.ranges and self.headers.get("If-Range") == server.etag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(server.body):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(server.body) - 1}/{len(server.body)}")
        else:
            self.send_response(200)
        piece = server.body[start:]
        self.send_header("Content-Length", str(len(piece)))
        self.send_header("ETag", server.etag)
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # some tests hang up
            self.wfile.write(piece[: server.cut] if server.cut else piece)
        if server.cut:
            self.close_connection = True

    def log_message(self, *_args):
        pass


@pytest.fixture
def server():
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.body, found.etag, found.cut, found.ranges, found.status, found.asked = BODY, '"one"', 0, True, 0, []
    found.most = 1000
    found.url = f"http://127.0.0.1:{found.server_port}"
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


def fetch(server, path, **more):
    return download(f"{server.url}/file", path, progress=False, pause=0, **more)


def test_whole(server, tmp_path):
    path = fetch(server, tmp_path / "a" / "file")
    assert path.read_bytes() == BODY
    assert [p.name for p in path.parent.iterdir()] == ["file"]
    fetch(server, path)
    assert len(server.asked) == 1, "a file that is there is not fetched again"


def test_broken_connections_resume(server, tmp_path):
    server.cut = 300_000
    assert fetch(server, tmp_path / "file").read_bytes() == BODY
    assert server.asked == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]


def test_a_later_run_resumes(server, tmp_path):
    first_run(server, tmp_path)
    assert (tmp_path / "file.part").stat().st_size == 300_000
    assert not (tmp_path / "file").exists()
    server.asked = []
    assert fetch(server, tmp_path / "file").read_bytes() == BODY
    assert server.asked == ["bytes=300000-"]


def first_run(server, tmp_path):
    """Fetch 300,000 bytes over one connection, then find the server gone."""
    server.cut, server.most = 300_000, 1
    with pytest.raises(UserError):
        fetch(server, tmp_path / "file")
    server.cut, server.most = 0, 1000


def test_a_changed_file_starts_again(server, tmp_path):
    first_run(server, tmp_path)
    server.body, server.etag = BODY[::-1], '"two"'
    assert fetch(server, tmp_path / "file").read_bytes() == BODY[::-1]


def test_a_server_without_ranges_starts_again(server, tmp_path):
    first_run(server, tmp_path)
    server.ranges = False
    assert fetch(server, tmp_path / "file").read_bytes() == BODY


def test_gives_up_without_progress(server, tmp_path):
    server.status = 503
    with pytest.raises(UserError, match=r"answers 503.*run the command again"):
        fetch(server, tmp_path / "file", attempts=3)
    assert len(server.asked) == 3


def test_not_found_is_said_at_once(server, tmp_path):
    server.status = 404
    with pytest.raises(UserError, match="404"):
        fetch(server, tmp_path / "file")
    assert len(server.asked) == 1
    assert list(tmp_path.iterdir()) == []


def test_no_space(server, tmp_path, monkeypatch):
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage(10, 0, 10))
    with pytest.raises(UserError, match="10 bytes free and 1,024,000 are needed"):
        fetch(server, tmp_path / "file")


@pytest.mark.parametrize(
    ("year", "names"),
    [(2018, ["Gift_Cards.csv", "meta_Gift_Cards.json.gz"]), (2023, ["Gift_Cards.csv.gz", "meta_Gift_Cards.jsonl.gz"])],
)
def test_a_category(server, tmp_path, year, names):
    amazon.download_category(tmp_path, "Gift_Cards", year, mirror=server.url, progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    for kind, name in zip(("ratings", "metadata"), names, strict=True):
        assert amazon.find_file(tmp_path, "Gift_Cards", year, kind).name == name
