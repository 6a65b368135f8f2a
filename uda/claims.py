"""Claims on folders of a disk that several machines share: at most one process works in a folder at a time.

No lock of the operating system is used: network disks do not keep ``flock``, and a dead machine's lock may stay for
ever. A claim is the folder ``.claim`` with one file in it, whose name nobody else ever uses:

* **Taking** is one rename: a folder with that file, prepared under a name of its own, becomes ``.claim``. A rename onto
  a folder that has a file in it fails, so that of any number of takers one succeeds.
* **The heartbeat** rewrites the file every :data:`BEAT` seconds. It never makes a file, so that a process that slept
  through the loss of its claim harms nobody's.
* **Whether a claim has gone silent** is judged by the clock of who looks: its content has been the same in looks over
  :data:`SILENCE` seconds, never by comparing times of two machines. On the holder's own machine a dead process is seen
  at once.
* **Taking over** deletes the silent claim's file, by its name; then everybody may take. A slow one that still means the
  old claim finds no file of that name.

A process that was stopped for longer than :data:`SILENCE` learns in :meth:`Claim.check`, before it writes, that its
claim is gone. The disk must keep what POSIX says of renames (local disks, NFS, Lustre, GPFS, CephFS do; object stores
mounted as folders do not).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import TracebackType

from uda.files import make_folder

CLAIM = ".claim"
"""The claim of a folder, in the folder."""
BEAT = 10.0
"""Seconds between two heartbeats."""
SILENCE = 120.0
"""Seconds without a heartbeat after which a claim may be taken over."""
LOOK = 1.0
"""Seconds between two looks at a claim that is waited for."""


class HeldError(RuntimeError):
    """Another process works in the folder."""

    def __init__(self, folder: Path, holder: Holder) -> None:
        super().__init__(f"{folder}: {holder} is working there")
        self.holder = holder


class LostError(RuntimeError):
    """The claim has gone silent for so long (a stopped process, a disk that was away) that another process took it."""


@dataclass(frozen=True)
class Holder:
    """Who holds a claim."""

    host: str
    process: int
    since: str
    """When it was taken, by the clock of the holder (UTC)."""
    job: str = ""
    """The Slurm job that the process is, if any."""
    machine: str = field(default="", repr=False)
    """Tells machines (and containers) apart whose processes have numbers of their own."""
    born: str = field(default="", repr=False)
    """Tells a process from a later one of the same number."""

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}" + (f" (job {self.job})" if self.job else "")

    @property
    def here(self) -> bool:
        """Whether it is certain that the process is, or was, this machine's."""
        return bool(self.machine) and self.machine == _machine()

    @property
    def dead(self) -> bool:
        """Whether it is certain that the process has ended: only ever of this machine's."""
        return self.here and not _runs(self.process, self.born)


UNKNOWN = Holder("an unknown host", 0, "")
"""Of a claim whose file is being written, or is damaged."""


def this_process() -> Holder:
    """The holder that a claim of this process has."""
    return Holder(
        socket.gethostname(), os.getpid(), datetime.now(UTC).isoformat(timespec="seconds"), job_name(), _machine(),
        _born(os.getpid()),
    )  # fmt: skip


def job_name() -> str:
    """The Slurm job that this process is, as Slurm names it; empty outside of one."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{part}_ID", "") for part in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")


class Claim:
    """A folder that is this process's own until :meth:`release`; made by :func:`take`.

    As a context manager it is released at the end, and is lent to what runs inside the block in the same thread:
    :func:`claimed` on the same folder is then this claim, to one borrower at a time.
    """

    def __init__(self, folder: Path, token: str, holder: Holder) -> None:
        self.folder, self.token, self.holder = folder, token, holder
        self.lost = False
        """Whether the heartbeat has seen that the claim is gone."""
        self._beats = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name=f"claim {folder}", daemon=True)
        self._thread.start()

    @property
    def path(self) -> Path:
        """The claim's file."""
        return self.folder / CLAIM / self.token

    def beat(self) -> None:
        """Rewrite the file, never make it."""
        self._beats += 1
        try:
            # in place: a rename onto the name would make it anew where it had been taken over
            with self.path.open("r+b") as file:
                file.write(_content(self.holder, self._beats))
        except FileNotFoundError:
            self.lost = True
        except OSError:
            pass  # the disk is away for a while; the next beat tells

    def _beat_on(self) -> None:
        while not self._ended.wait(BEAT) and not self.lost:
            self.beat()

    def check(self) -> None:
        """See that the claim is still there, before something is written.

        Raises:
            LostError: it is not.
        """
        try:
            self.path.stat()
        except FileNotFoundError:
            self.lost = True
        except OSError:
            pass  # what is written next has the same disk, and says so
        if self.lost:
            raise LostError(f"{self.folder}: another process took over, as no heartbeat was seen for {SILENCE:.0f} s")

    def release(self) -> None:
        """Give the folder back; one that was taken over stays with its new holder."""
        self._ended.set()
        with contextlib.suppress(OSError):
            self.path.unlink()
        with contextlib.suppress(OSError):
            (self.folder / CLAIM).rmdir()  # only if it is empty

    def __enter__(self) -> Claim:
        self._outer = _lent.set({**_lent.get(), _key(self.folder): self})
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        _lent.reset(self._outer)
        self.release()


_lent: ContextVar[dict[str, Claim]] = ContextVar("lent", default={})  # noqa: B039 - never changed in place
"""By real path: claims in whose blocks this thread is, and which nobody has borrowed."""


def take(folder: str | Path) -> Claim | None:
    """Claim a folder, which is made where it is missing.

    Returns:
        ``None`` where it is claimed already, be that by a process that has died (see :meth:`Watch.holder`).

    Raises:
        OSError: the disk cannot be written.
    """
    folder, token, holder = Path(folder), uuid.uuid4().hex, this_process()
    make_folder(folder)
    place, prepared = folder / CLAIM, folder / f"{CLAIM}.{token}"
    prepared.mkdir()
    try:
        (prepared / token).write_bytes(_content(holder, 0))
        with contextlib.suppress(OSError):
            place.rmdir()  # left empty by a kill; not every system renames onto an empty folder
        prepared.rename(place)
    except OSError as error:
        # by what is there: a network disk may do a rename and lose the answer
        if not (place / token).is_file():
            shutil.rmtree(prepared, ignore_errors=True)
            if error.errno in _OUTRUN:
                return None
            raise
    for left in folder.glob(f"{CLAIM}.*"):  # by a kill; a live taker's would come to nothing anyway
        shutil.rmtree(left, ignore_errors=True)
    return Claim(folder, token, holder)


_OUTRUN = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.EACCES, errno.EPERM}
"""What a rename says when somebody was faster, or removed what was prepared; Windows says the last two."""


class Watch:
    """Looks at claims again and again, and knows which of them have gone silent.

    Args:
        silence: seconds.
    """

    def __init__(self, silence: float | None = None) -> None:
        self.silence = SILENCE if silence is None else silence
        self._looks: dict[str, _Looks] = {}

    def holder(self, folder: str | Path) -> Holder | None:
        """Who works in a folder; ``None`` where it is free. The claim of one who is dead or silent is deleted."""
        looks = self.look(folder)
        if looks is None:
            return None
        if looks.holder.dead or looks.silent >= self.silence:
            with contextlib.suppress(OSError):
                looks.path.unlink()
            return None
        return looks.holder

    def look(self, folder: str | Path) -> _Looks | None:
        """What is known of a folder's claim after one more look; ``None`` where there is none."""
        folder, now = Path(folder), time.monotonic()
        for path in _files(folder):
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue  # released in this moment
            except OSError:
                content = None  # the disk is away: nothing is learnt
            before = self._looks.get(str(folder))
            if before is None or before.path != path:
                looks = _Looks(path, content, now)
            elif content is None:
                looks = before
            elif content != before.content:
                looks = _Looks(path, content, now, heard=before.content is not None)
            else:
                # only time in which somebody looked: whoever looks may have been stopped, or the disk away
                silent = before.silent + min(now - before.at, BEAT)
                looks = _Looks(path, content, now, silent, before.heard)
            self._looks[str(folder)] = looks
            return looks
        self._looks.pop(str(folder), None)
        return None


@dataclass(frozen=True)
class _Looks:
    """What one observer knows of a claim."""

    path: Path
    content: bytes | None
    at: float
    """Of the last look that could read it, by this process's clock."""
    silent: float = 0.0
    """Seconds of looking in which no heartbeat came."""
    heard: bool = False
    """Whether a heartbeat came between two looks."""

    @property
    def holder(self) -> Holder:
        try:
            content = json.loads(self.content or b"")
            return Holder(**{name: content[name] for name in Holder.__dataclass_fields__})
        except (ValueError, TypeError, KeyError):
            return UNKNOWN


@contextlib.contextmanager
def claimed(folder: str | Path, *, wait: bool = False, note: Callable[[str], None] | None = None) -> Iterator[Claim]:
    """Hold a folder's claim, or borrow the one in whose block this thread is.

    Args:
        folder: is made where it is missing.
        wait: until the holder has released it; else only until it is seen that the holder is alive.
        note: told, in a line, what is waited for.

    Raises:
        HeldError: another process works there.
        OSError: the disk cannot be written.
    """
    lent = _lent.get()
    borrowed = lent.get(_key(folder))
    if borrowed is not None and borrowed.holder.process == os.getpid():  # a forked child's is its parent's
        outer = _lent.set({key: claim for key, claim in lent.items() if claim is not borrowed})
        try:
            yield borrowed
        finally:
            _lent.reset(outer)
        return
    watch, told = Watch(), False
    while True:
        holder = watch.holder(folder)
        claim = take(folder) if holder is None else None
        if claim is not None:
            break
        looks = watch.look(folder)
        if looks is not None and not wait and (looks.heard or looks.holder.here):
            raise HeldError(Path(folder), looks.holder)
        if holder is not None and not told and note is not None:
            told = True
            note(
                f"{folder}: claimed by {holder}; waiting"
                + ("" if wait else f" up to {SILENCE:.0f} s for its heartbeat")
            )
        time.sleep(LOOK)
    try:
        yield claim
    finally:
        claim.release()


def clear(folder: Path) -> None:
    """Delete everything in a folder that this process has claimed, but for the claim."""
    for path in folder.iterdir():
        if path.name == CLAIM:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _files(folder: Path) -> list[Path]:
    """A claim's file; none where there is no claim. Names with a dot are the network disk's own."""
    try:
        names = os.listdir(folder / CLAIM)
    except OSError:
        return []
    return [folder / CLAIM / name for name in sorted(names) if not name.startswith(".")]


def _content(holder: Holder, beats: int) -> bytes:
    """Always of the same length, so that it can be rewritten in place."""
    return json.dumps({**holder.__dict__, "beat": f"{beats:012d}"}).encode()


def _key(folder: str | Path) -> str:
    return os.path.realpath(folder)


@cache
def _machine() -> str:
    """Whose process numbers these are; empty where that cannot be told, and then only silence counts."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        # Windows has no harmless way to ask for a process
        return "" if os.name == "nt" else f"{socket.gethostname()}/{uuid.getnode()}"


def _status(process: int) -> list[str]:
    """What Linux says of a process after its name, its state first; empty where there is none."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _born(process: int) -> str:
    """When a process began, in ticks since the machine did; empty where that is not known."""
    fields = _status(process)
    return fields[19] if len(fields) > 19 else ""


def _runs(process: int, born: str) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's
    fields = _status(process)
    # a zombie has ended, and a number may have come to another process
    return not fields or (fields[0] not in "ZX" and (not born or _born(process) == born))
