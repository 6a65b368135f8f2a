"""The downloader against a server on this machine: breaks, ranges, changed files, wrong files, none at all."""

from __future__ import annotations

import hashlib
import json
import random
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

import uda.data.download
from tests.data.server import Served, serve
from uda.data.download import Downloaded, download
from uda.data.errors import DownloadError

CONTENT = b"PK\x03\x04" + random.Random(0).randbytes(300_000)
OTHER = b"PK\x03\x04" + random.Random(1).randbytes(280_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def fetch(served: Served, path: Path, **more: Any) -> Downloaded:
    return download(served.url, path, **{"sleep": lambda seconds: None, **more})


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def test_a_file_comes_whole_and_is_not_fetched_twice(tmp_path: Path) -> None:
    ticks: list[tuple[int, int | None]] = []
    with serve(CONTENT) as served:
        first = fetch(served, tmp_path / "new/x.zip", tick=lambda done, total: ticks.append((done, total)))
        assert first == Downloaded(tmp_path / "new/x.zip", SHA256, len(CONTENT), "nothing")
        assert first.path.read_bytes() == CONTENT
        assert (ticks[0], ticks[-1]) == ((0, len(CONTENT)), (len(CONTENT), len(CONTENT)))
        assert names(tmp_path / "new") == {"x.zip", "x.zip.sha256"}
        assert (tmp_path / "new/x.zip.sha256").read_text() == f"{SHA256}  x.zip\n"
        again = fetch(served, tmp_path / "new/x.zip")
        assert (again.checked, len(served.asked)) == ("earlier", 1)
        assert fetch(served, tmp_path / "new/x.zip", sha256=SHA256.upper()).checked == "known"


@pytest.mark.parametrize("mark", [{}, {"etag": None, "modified": "Mon, 13 Aug 2018 07:42:48 GMT"}])
def test_a_broken_connection_goes_on_where_it_stopped(mark: dict[str, Any], tmp_path: Path) -> None:
    waits: list[float] = []
    with serve(CONTENT, break_after=[100_000, 50_000], **mark) as served:
        done = fetch(served, tmp_path / "x.zip", sleep=waits.append)
    assert done.sha256 == SHA256
    assert [asked for _, asked in served.asked] == [None, "bytes=100000-", "bytes=150000-"]
    assert waits == [1.0, 1.0], "both brought something"


def test_another_process_goes_on_too(tmp_path: Path) -> None:
    with serve(CONTENT, break_after=[100_000], codes=[200, 503, 503]) as served:
        with pytest.raises(DownloadError, match=r"HTTP 503 .*2 times in a row.*100000 bytes .*x.zip.part"):
            fetch(served, tmp_path / "x.zip", attempts=2)
        assert names(tmp_path) == {"x.zip.part", "x.zip.part.json"}
        assert fetch(served, tmp_path / "x.zip").sha256 == SHA256
    assert served.asked[-1][1] == "bytes=100000-"


@pytest.mark.parametrize(
    ("change", "last_range"),
    [
        ({"content": OTHER, "etag": '"two"'}, "bytes=100000-"),  # asked for the rest, and given the new file
        ({"ranges": False, "content": OTHER}, "bytes=100000-"),
        ({"content": OTHER[:90_000]}, None),  # shorter than what is there: 416, and anew
    ],
    ids=["changed", "no ranges", "shorter"],
)
def test_what_cannot_go_on_begins_anew(change: dict[str, Any], last_range: str | None, tmp_path: Path) -> None:
    with serve(CONTENT, break_after=[100_000], codes=[200, 500]) as served:
        with pytest.raises(DownloadError, match="100000 bytes"):
            fetch(served, tmp_path / "x.zip", attempts=1)
        for name, value in change.items():
            setattr(served, name, value)
        fetch(served, tmp_path / "x.zip")
    assert (tmp_path / "x.zip").read_bytes() == served.content
    assert served.asked[-1][1] == last_range


@pytest.mark.parametrize("mark", [{"etag": None}, {"etag": 'W/"weak"'}], ids=["none", "weak"])
def test_without_a_mark_of_the_version_nothing_is_joined(mark: dict[str, Any], tmp_path: Path) -> None:
    with serve(CONTENT, break_after=[100_000], **mark) as served:
        assert fetch(served, tmp_path / "x.zip").sha256 == SHA256
    assert [asked for _, asked in served.asked] == [None, None]


def test_a_part_of_another_address_or_with_a_damaged_mark_is_not_used(tmp_path: Path) -> None:
    for mark in (json.dumps({"url": "http://elsewhere/x.zip", "mark": '"one"'}), "{", "[]"):
        (tmp_path / "x.zip.part").write_bytes(OTHER[:1000])
        (tmp_path / "x.zip.part.json").write_text(mark)
        with serve(CONTENT) as served:
            assert fetch(served, tmp_path / "x.zip").sha256 == SHA256
        (tmp_path / "x.zip").unlink()


def test_a_part_that_is_whole_needs_no_more_bytes(tmp_path: Path) -> None:
    with serve(CONTENT) as served:
        (tmp_path / "x.zip.part").write_bytes(CONTENT)
        (tmp_path / "x.zip.part.json").write_text(json.dumps({"url": served.url, "mark": '"one"'}))
        assert fetch(served, tmp_path / "x.zip").sha256 == SHA256
    assert served.asked == [("/data.zip", f"bytes={len(CONTENT)}-")]


def test_a_server_that_never_sends_all_of_it_is_given_up(tmp_path: Path) -> None:
    waits: list[float] = []
    with (
        serve(CONTENT, etag=None, break_after=[1000] * 9) as served,
        pytest.raises(DownloadError, match=r"the connection ended after 1000 of 300004 bytes .4 times in a row."),
    ):
        fetch(served, tmp_path / "x.zip", attempts=4, sleep=waits.append)
    assert waits == [1.0, 1.0, 2.0, 4.0]
    assert "x.zip" not in names(tmp_path)


def test_a_file_of_unknown_length(tmp_path: Path) -> None:
    ticks: list[int | None] = []
    with serve(CONTENT, length=False) as served:
        assert fetch(served, tmp_path / "x.zip", tick=lambda done, total: ticks.append(total)).sha256 == SHA256
    assert set(ticks) == {None}


def test_a_wrong_checksum_is_put_aside(tmp_path: Path) -> None:
    with serve(CONTENT) as served:
        with pytest.raises(DownloadError, match=f"sha256 is {SHA256}, must be 00"):
            fetch(served, tmp_path / "x.zip", sha256="00" * 32)
        assert names(tmp_path) == {"x.zip.wrong"}
        fetch(served, tmp_path / "x.zip")
        (tmp_path / "x.zip").unlink()
        served.content, served.etag = OTHER, '"two"'
        with pytest.raises(DownloadError, match=rf"must be {SHA256}.*on purpose, delete .*x\.zip\.sha256"):
            fetch(served, tmp_path / "x.zip")
        assert names(tmp_path) == {"x.zip.wrong", "x.zip.sha256"}
        assert (tmp_path / "x.zip.sha256").read_text().startswith(SHA256)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"codes": [404]}, "HTTP 404 Not Found; it has moved"),
        ({"codes": [403]}, "HTTP 403 Forbidden; it needs an account"),
        ({"kind": "text/html; charset=utf-8"}, "a web page in place of the file; does it need an account"),
        ({"content": b"\n <!doctype HTML><html>Log in"}, "a web page in place of the file"),
        ({"redirects": {"/data.zip": "/data.zip"}}, "HTTP 302"),
    ],
)
def test_what_is_no_file_ends_at_once(more: dict[str, Any], message: str, tmp_path: Path) -> None:
    with serve(**{"content": CONTENT, **more}) as served, pytest.raises(DownloadError, match=message):
        fetch(served, tmp_path / "x.zip", sleep=lambda seconds: pytest.fail("waits"))
    assert "x.zip" not in names(tmp_path)
    assert {asked for asked, _ in served.asked} == {"/data.zip"}


def test_a_web_page_that_comes_in_pieces_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uda.data.download, "CHUNK", 5)
    with (
        serve(content=b"\n <!doctype HTML><html>Log in") as served,
        pytest.raises(DownloadError, match="a web page in place"),
    ):
        fetch(served, tmp_path / "x.zip")
    assert not any(name.startswith("x.zip") and name.endswith(".part") for name in names(tmp_path))


def test_busy_slow_and_moved(tmp_path: Path) -> None:
    with serve(CONTENT, codes=[503, 429], redirects={"/data.zip": "/there"}, break_after=[100_000]) as served:
        assert fetch(served, tmp_path / "x.zip").sha256 == SHA256
    assert [asked for asked in served.asked if asked[0] == "/there"][-1] == ("/there", "bytes=100000-")
    with (
        serve(CONTENT, pause=2, etag=None) as served,
        pytest.raises(DownloadError, match=r"connection broke .TimeoutError"),
    ):
        fetch(served, tmp_path / "slow.zip", timeout=0.2, attempts=1)
    assert 0 < (tmp_path / "slow.zip.part").stat().st_size < len(CONTENT)


def test_nobody_answers(tmp_path: Path) -> None:
    with serve(CONTENT) as served:
        pass
    with pytest.raises(DownloadError, match=r"no answer .*refused.* .3 times in a row.$"):
        fetch(served, tmp_path / "x.zip", attempts=3)


def test_from_https_only_to_https() -> None:
    from urllib.request import Request

    from uda.data.download import _SaferRedirects

    for target in ("http://there/x", "ftp://there/x", "file:///etc/passwd"):
        with pytest.raises(DownloadError, match="which is not https"):
            _SaferRedirects().redirect_request(Request("https://here/x"), None, 302, "", {}, target)
    assert _SaferRedirects().redirect_request(Request("https://here/x"), None, 302, "", {}, "https://there/x")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x/y", "x.zip", "https:///x", "http:x"])
def test_other_addresses_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="an address begins with https"):
        download(url, tmp_path / "x.zip")


def test_a_full_disk_and_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    with serve(CONTENT) as served:
        with FileLock(tmp_path / ".x.zip.lock"), pytest.raises(DownloadError, match="another process is fetching it"):
            fetch(served, tmp_path / "x.zip")
        monkeypatch.setattr("uda.data.download.shutil.disk_usage", lambda path: usage(10**6, 0, 300_003))
        with pytest.raises(OSError, match="300004 bytes to come, 300003 free"):
            fetch(served, tmp_path / "x.zip")
        assert names(tmp_path) == set()
        monkeypatch.setattr("uda.data.download.shutil.disk_usage", lambda path: usage(10**6, 0, 300_004))
        assert fetch(served, tmp_path / "x.zip").sha256 == SHA256
