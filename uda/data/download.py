"""Fetches a file over HTTP: goes on where it stopped, checks what it got, and leaves the whole file or none.

Own code, since nothing at hand does all of it: ``pooch`` and ``torch.hub`` begin anew after a break, torchvision's
``download_url`` as well, and ``huggingface_hub`` goes on but only from its own servers.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from uda import __version__
from uda.data.errors import DownloadError
from uda.files import PART, atomic_write, make_folder
from uda.registry import short

PAGE_HEAD = 100
"""Bytes in which a web page says that it is one."""
CHUNK = 1 << 18
"""Bytes that are read at once."""
_AGAIN = (408, 425, 429, 500, 502, 503, 504)
"""Answers after which the same request may well succeed."""
_LONGEST_WAIT = 60.0

Tick = Callable[[int, "int | None"], None]
"""Called with the bytes that are there and those there will be (``None`` where the server does not say)."""


@dataclass(frozen=True)
class Downloaded:
    """A file that is there, whole.

    Attributes:
        path: where.
        sha256: of its bytes, as 64 hex digits.
        size: in bytes.
        checked: what the checksum was compared with: ``"known"``, ``"earlier"`` (that of the first download, in
            ``<name>.sha256`` beside the file), or ``"nothing"``, when this is the first one.
    """

    path: Path
    sha256: str
    size: int
    checked: str


def download(
    url: str,
    path: str | Path,
    *,
    sha256: str | None = None,
    tick: Tick | None = None,
    timeout: float = 30.0,
    attempts: int = 6,
    sleep: Callable[[float], None] = time.sleep,
) -> Downloaded:
    """Fetch a file, or what is missing of it.

    What has arrived lies in ``<name>.part`` with the server's mark of that version (ETag or date) beside it. A later
    call asks for the rest with ``Range`` and ``If-Range``, and begins anew where the file has changed, the server gave
    no mark or knows no ranges. A file that is there already is checked, not fetched.

    Args:
        url: ``http://`` or ``https://``; one that begins as https is not led to plain http.
        path: where to; folders above it are made.
        sha256: what the file must have. Without it the checksum of the first download is written to ``<name>.sha256``
            (as ``sha256sum`` does), and every later one must agree with it: trust on first use.
        tick: see :data:`Tick`.
        timeout: seconds without any answer after which a request is given up.
        attempts: requests in a row that may bring nothing; between them it waits 1, 2, 4, ... seconds.
        sleep: waits.

    Raises:
        DownloadError: no such file, no answer, another checksum, or a web page in place of the file.
        OSError: the disk has no room for it, or it cannot be written.
        ValueError: an address that is not HTTP.
    """
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
        raise ValueError(f"{short(url)}: an address begins with https:// or http://")
    path = Path(path)
    make_folder(path.parent)
    try:
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=0):
            if not path.is_file():
                _Transfer(url, path, timeout, tick or (lambda done, total: None)).run(attempts, sleep)
            return _checked(url, path, sha256)
    except Timeout:
        raise DownloadError(f"{path}: another process is fetching it") from None


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file as 64 hex digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checked(url: str, path: Path, sha256: str | None) -> Downloaded:
    """The file, if its checksum is right; a wrong one is put aside, so that the next call fetches it anew."""
    actual = file_sha256(path)
    note = path.with_name(f"{path.name}.sha256")
    earlier = re.match(r"[0-9a-f]{64}\b", note.read_text(encoding="utf-8")) if note.is_file() else None
    expected = sha256.lower() if sha256 else earlier and earlier[0]
    if expected and actual != expected:
        wrong = path.with_name(f"{path.name}.wrong")
        path.replace(wrong)
        changed = f" If the publisher changed the file on purpose, delete {note}." if not sha256 else ""
        raise DownloadError(f"{url}: sha256 is {actual}, must be {expected}; the file is now {wrong}.{changed}")
    if not earlier:
        with atomic_write(note) as file:
            file.write(f"{actual}  {path.name}\n")
    checked = "known" if sha256 else "earlier" if earlier else "nothing"
    return Downloaded(path, actual, path.stat().st_size, checked)


class _Broken(Exception):
    """A request that is worth repeating; with the seconds that the server asks to wait, if it does."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


class _Transfer:
    """What there is of one file, and the requests for the rest."""

    def __init__(self, url: str, path: Path, timeout: float, tick: Tick) -> None:
        self.url, self.path, self.timeout, self.tick = url, path, timeout, tick
        self.part = path.with_name(f"{path.name}{PART}")
        self.mark_file = path.with_name(f"{path.name}{PART}.json")

    def run(self, attempts: int, sleep: Callable[[float], None]) -> None:
        failures = 0
        while True:
            before = self._size()
            try:
                self._request()
            except _Broken as error:
                failures = 0 if self._size() > before else failures + 1
                if failures >= attempts:
                    there = self._size()
                    rest = f"; {there} bytes are in {self.part}, the same command goes on from there" if there else ""
                    raise DownloadError(f"{self.url}: {error} ({failures} times in a row){rest}") from error
                sleep(min(max(error.wait, 2.0 ** max(failures - 1, 0)), _LONGEST_WAIT))
                continue
            self.part.replace(self.path)
            self.mark_file.unlink(missing_ok=True)
            return

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def _mark(self) -> str | None:
        """What stands for the version that the part is of, if it is of this address."""
        try:
            mark = json.loads(self.mark_file.read_text(encoding="utf-8"))
            return str(mark["mark"]) if mark["url"] == self.url and mark["mark"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _request(self) -> None:
        there, mark = self._size(), self._mark()
        headers = {"User-Agent": f"uda/{__version__}", "Accept-Encoding": "identity"}
        if there and mark:
            headers |= {"Range": f"bytes={there}-", "If-Range": mark}
        try:
            with _opener().open(urllib.request.Request(self.url, headers=headers), timeout=self.timeout) as answer:
                self._take(answer, there if "Range" in headers else 0)
        except urllib.error.HTTPError as error:
            self._refused(error, there)
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):  # waiting does not help
                raise DownloadError(f"{self.url}: the server's certificate is not valid ({error.reason})") from error
            raise _Broken(f"no answer ({error.reason})") from error
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            raise _Broken(f"the connection broke ({type(error).__name__})") from error

    def _refused(self, error: urllib.error.HTTPError, there: int) -> None:
        """An answer that is no file: the end of the transfer, or worth another request."""
        if error.code == 416:
            # no bytes after ours: either that was all, or what we have is of no use
            if error.headers.get("Content-Range", "") == f"bytes */{there}" and there:
                return
            self.part.unlink(missing_ok=True)
            raise _Broken("the server has no such range") from error
        if error.code in _AGAIN:
            wait = error.headers.get("Retry-After", "")
            raise _Broken(f"HTTP {error.code} {error.reason}", float(wait) if wait.isdecimal() else 0.0) from error
        hint = {401: "; it needs an account", 403: "; it needs an account, or is closed", 404: "; it has moved"}
        message = f"{self.url}: HTTP {error.code} {error.reason}{hint.get(error.code, '')}"
        raise DownloadError(message) from error

    def _take(self, answer: Any, asked_from: int) -> None:
        """Write an answer's bytes to the part, after those that are there if it goes on from them."""
        begin, total = _range(answer) if answer.status == 206 else (0, _length(answer.headers))
        if begin != asked_from and answer.status == 206:
            self.part.unlink(missing_ok=True)
            raise _Broken(f"the server sent bytes from {begin}, not from {asked_from}")
        if "html" in answer.headers.get("Content-Type", ""):
            raise DownloadError(f"{self.url}: a web page in place of the file; does it need an account?")
        free = shutil.disk_usage(self.path.parent).free + (self._size() if not begin else 0)
        if total is not None and total - begin > free:
            raise OSError(errno.ENOSPC, f"{total - begin} bytes to come, {free} free", str(self.path.parent))
        if not begin:
            self._note(answer.headers)
        with self.part.open("ab" if begin else "wb") as out:
            done = self._copy(answer, out, begin, total)
        if total is not None and done < total:
            raise _Broken(f"the connection ended after {done} of {total} bytes")

    def _copy(self, answer: Any, out: IO[bytes], done: int, total: int | None) -> int:
        self.tick(done, total)
        head = None if done else b""
        while chunk := answer.read1(CHUNK):  # what is there, so that a break loses nothing that came
            if head is not None and len(head) < PAGE_HEAD:  # which may come in pieces
                head += chunk[:PAGE_HEAD]
                if re.match(rb"\s*<(!doctype html|html)", head, re.IGNORECASE):
                    self.part.unlink(missing_ok=True)
                    raise DownloadError(f"{self.url}: a web page in place of the file")
            out.write(chunk)
            done += len(chunk)
            self.tick(done, total)
        return done

    def _note(self, headers: Mapping[str, str]) -> None:
        """Keep the server's mark of the version, before any of its bytes."""
        etag = headers.get("ETag") or ""
        strong = "" if etag.startswith("W/") else etag  # a weak one does not promise the same bytes
        self.part.unlink(missing_ok=True)
        with atomic_write(self.mark_file) as file:
            json.dump({"url": self.url, "mark": strong or headers.get("Last-Modified")}, file)


class _SaferRedirects(urllib.request.HTTPRedirectHandler):
    """Follows to other addresses, but from https only to https."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urlsplit(req.full_url).scheme == "https" and urlsplit(newurl).scheme != "https":
            raise DownloadError(f"{req.full_url}: leads to {short(newurl)}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_SaferRedirects)


def _length(headers: Mapping[str, str]) -> int | None:
    length = headers.get("Content-Length") or ""
    return int(length) if length.isdecimal() else None


def _range(answer: Any) -> tuple[int, int | None]:
    """First byte and length of the whole file, of an answer with part of it."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
    if match is None:
        return -1, None
    return int(match[1]), None if match[2] == "*" else int(match[2])
