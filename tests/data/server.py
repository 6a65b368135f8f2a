"""A server on this machine that a downloader is tested against: it knows ranges, and misbehaves on demand."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Served:
    """What the server gives under every path but those of its redirects, and what it was asked."""

    content: bytes
    etag: str | None = '"one"'
    modified: str | None = None
    ranges: bool = True
    length: bool = True
    kind: str = "application/zip"
    break_after: list[int] = field(default_factory=list)
    """Bytes after which the connection ends, for one answer each."""
    codes: list[int] = field(default_factory=list)
    """Answers before the first file."""
    pause: float = 0.0
    """Seconds in the middle of every answer."""
    redirects: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and Range of every request."""
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        served: Served = self.server.served  # type: ignore[attr-defined]
        wanted = self.headers.get("Range")
        served.asked.append((self.path, wanted))
        if self.path in served.redirects:
            return self._head(302, {"Location": served.redirects[self.path]})
        if served.codes and (code := served.codes.pop(0)) != 200:
            return self._head(code, {"Content-Length": "0"})
        mark = served.etag or served.modified
        begin = 0
        if wanted and served.ranges and self.headers.get("If-Range") in (None, mark):
            begin = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])  # type: ignore[index]
            if begin >= len(served.content):
                return self._head(416, {"Content-Range": f"bytes */{len(served.content)}", "Content-Length": "0"})
        headers = {"Content-Type": served.kind}
        headers |= {"ETag": served.etag} if served.etag else {}
        headers |= {"Last-Modified": served.modified} if served.modified else {}
        headers |= {"Content-Length": str(len(served.content) - begin)} if served.length else {}
        whole = len(served.content)
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{whole - 1}/{whole}"
        self._head(206 if begin else 200, headers)
        body = served.content[begin:]
        end = served.break_after.pop(0) if served.break_after else len(body)
        self.wfile.write(body[: end // 2])
        self.wfile.flush()
        time.sleep(served.pause)
        with suppress(ConnectionError):  # a client that has seen enough hangs up
            self.wfile.write(body[end // 2 : end])

    def _head(self, code: int, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


@contextmanager
def serve(content: bytes, **more: Any) -> Iterator[Served]:
    """A server of some bytes, until the block ends; ``url`` is the address of a file of it."""
    served = Served(content, **more)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.served = served  # type: ignore[attr-defined]
    server.daemon_threads = True
    served.url = f"http://127.0.0.1:{server.server_port}/data.zip"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
