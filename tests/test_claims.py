"""One process at a time in a folder, whatever machines it is on and however they die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from uda import claims
from uda.claims import CLAIM, Claim, HeldError, Holder, LostError, Watch, claimed, take

ELSEWHERE = "from uda import claims\nclaims._machine = lambda: 'another'\nclaims.socket.gethostname = lambda: 'far'\n"
"""What makes a child process one of another machine."""
HOLD = "import sys, time\nclaims.take(sys.argv[1])\nprint('held', flush=True)\ntime.sleep(600)\n"
RACE = """
import sys, time
from pathlib import Path
from uda.claims import take
folder, wins = Path(sys.argv[1]), 0
while not (folder / "go").exists():
    pass
for number in range(100):
    claim = take(folder / str(number))
    if claim is not None:
        (folder / str(number) / f"won.{sys.argv[2]}").touch()
"""
COUNT = """
import sys
from pathlib import Path
from uda import claims
claims.LOOK = 0.001
for _ in range(30):
    with claims.claimed(sys.argv[1], wait=True):
        path = Path(sys.argv[1], "count")
        path.write_text(str(int(path.read_text()) + 1))
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT", 0.05)
    monkeypatch.setattr(claims, "SILENCE", 0.5)
    monkeypatch.setattr(claims, "LOOK", 0.02)


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def held(code: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has said that it holds a folder; killed afterwards."""
    child = start(code, folder)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    yield child
    child.kill()
    child.wait()


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process of this machine that holds ``tmp_path``, with a heart that hardly beats."""
    yield from held(f"from uda import claims\n{HOLD}", tmp_path)


@pytest.fixture
def far(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The same on another machine, with a heart that beats."""
    yield from held(f"{ELSEWHERE}claims.BEAT = 0.05\n{HOLD}", tmp_path)


def hush(claim: Claim) -> None:
    """Stop a claim's heartbeat, as a stopped process's is."""
    claim._ended.set()
    claim._thread.join()


def test_a_claim_keeps_others_out_until_it_is_released(tmp_path: Path) -> None:
    claim = take(tmp_path / "a/b")
    assert claim is not None
    assert take(tmp_path / "a/b") is None
    assert Watch().look(tmp_path / "a/b") is not None
    assert Watch().holder(tmp_path / "a/b") == claim.holder
    claim.check()
    claim.release()
    assert Watch().look(tmp_path / "a/b") is None
    assert list((tmp_path / "a/b").iterdir()) == []
    again = take(tmp_path / "a/b")
    assert again is not None
    again.release()


def test_of_many_takers_one_succeeds(tmp_path: Path) -> None:
    takers = [start(RACE, tmp_path, number) for number in range(4)]
    time.sleep(1)
    (tmp_path / "go").touch()
    assert [taker.wait(60) for taker in takers] == [0] * 4
    for number in range(100):
        assert len(list((tmp_path / str(number)).glob("won.*"))) == 1
        assert not list((tmp_path / str(number)).glob(f"{CLAIM}.*")), "what losers had prepared is removed"


def test_those_who_wait_come_one_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    counters = [start(COUNT, tmp_path) for _ in range(3)]
    assert [counter.wait(60) for counter in counters] == [0] * 3
    assert (tmp_path / "count").read_text() == "90"


def test_a_dead_process_of_this_machine_is_seen_at_once(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    watch = Watch(silence=1e9)
    seen = watch.holder(tmp_path)
    assert seen is not None
    assert (seen.process, seen.dead) == (holder.pid, False)
    with pytest.raises(HeldError, match=f"process {holder.pid} on .* is working there"), claimed(tmp_path):
        pass
    holder.kill()
    end = time.monotonic() + 10
    while watch.holder(tmp_path) is not None:  # nobody has waited for it: a zombie is dead too
        assert time.monotonic() < end
        time.sleep(0.01)
    with claimed(tmp_path) as claim:
        assert claim.holder.process == os.getpid()


def test_a_process_that_has_the_number_of_a_dead_one_is_another(tmp_path: Path) -> None:
    now = claims.this_process()
    assert not now.dead
    assert Holder(now.host, now.process, now.since, machine=now.machine, born="1").dead
    assert not Holder(now.host, now.process, now.since, machine="another", born="1").dead


def test_a_process_of_another_machine_is_dead_when_it_is_silent(tmp_path: Path, far: subprocess.Popen[str]) -> None:
    watch, end = Watch(), time.monotonic() + 3 * claims.SILENCE
    while time.monotonic() < end:
        seen = watch.holder(tmp_path)
        assert seen is not None, "its heart beats"
        time.sleep(claims.LOOK)
    assert (seen.host, seen.process, seen.dead) == ("far", far.pid, False)
    with pytest.raises(HeldError, match="on far is working there"), claimed(tmp_path):
        pass
    far.kill()
    lines: list[str] = []
    began = time.monotonic()
    with claimed(tmp_path, note=lines.append) as claim:
        assert claim.holder.process == os.getpid()
    assert time.monotonic() - began > 0.8 * claims.SILENCE
    assert len(lines) == 1
    assert f"claimed by process {far.pid} on far" in lines[0]


def test_one_who_was_stopped_learns_that_the_claim_is_gone(tmp_path: Path) -> None:
    claim = take(tmp_path)
    assert claim is not None
    hush(claim)
    watch = Watch()
    while watch.holder(tmp_path) is not None:
        time.sleep(claims.LOOK)
    successor = take(tmp_path)
    assert successor is not None
    before = successor.path.read_bytes()
    hush(successor)
    claim.beat()
    assert claim.lost
    with pytest.raises(LostError, match="another process took over"):
        claim.check()
    claim.release()
    successor.check()
    assert successor.path.read_bytes() == before
    assert [path.name for path in (tmp_path / CLAIM).iterdir()] == [successor.token]


def test_a_slow_taker_never_takes_the_successors_claim(tmp_path: Path) -> None:
    """It judges the old claim silent, sleeps, and deletes what another has taken meanwhile: only by the old name."""
    old = take(tmp_path)
    assert old is not None
    hush(old)
    slow = Watch()
    while (looks := slow.look(tmp_path)) is None or looks.silent < claims.SILENCE:
        time.sleep(claims.LOOK)
    old.path.unlink()
    successor = take(tmp_path)
    assert successor is not None
    assert slow.holder(tmp_path) == successor.holder
    looks.path.unlink(missing_ok=True)
    successor.check()
    successor.release()


def test_time_in_which_nobody_looked_does_not_count_as_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = take(tmp_path)
    assert claim is not None
    hush(claim)
    watch, now = Watch(silence=2 * claims.BEAT), time.monotonic()
    monkeypatch.setattr(claims.time, "monotonic", lambda: now)
    for sleeps in (0, 1000):  # the second look is after a long sleep
        now += sleeps
        assert watch.holder(tmp_path) is not None
    now += 1000
    assert watch.holder(tmp_path) is None


def test_a_disk_that_is_away_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = take(tmp_path)
    assert claim is not None
    hush(claim)
    watch = Watch(silence=0.01)
    assert watch.holder(tmp_path) is not None

    def away(path: Path) -> bytes:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", away)
        time.sleep(0.05)
        assert watch.holder(tmp_path) is not None
        patch.setattr(Path, "open", lambda *args, **kwargs: away(tmp_path))
        claim.beat()
        assert not claim.lost
    claim.release()


def test_a_claim_that_is_being_written_or_damaged_is_one(tmp_path: Path) -> None:
    (tmp_path / CLAIM).mkdir()
    (tmp_path / CLAIM / "token").write_bytes(b"\x00{")
    watch = Watch()
    assert watch.holder(tmp_path) == claims.UNKNOWN
    assert take(tmp_path) is None
    while watch.holder(tmp_path) is not None:
        time.sleep(claims.LOOK)
    claim = take(tmp_path)
    assert claim is not None
    claim.release()


def test_what_kills_left_is_no_claim_and_is_removed(tmp_path: Path) -> None:
    (tmp_path / CLAIM).mkdir()  # a kill between the two steps of a release
    (tmp_path / f"{CLAIM}.0123").mkdir()  # a kill before a taker's rename
    (tmp_path / f"{CLAIM}.0123/0123").touch()
    assert Watch().holder(tmp_path) is None
    claim = take(tmp_path)
    assert claim is not None
    assert [path.name for path in tmp_path.iterdir()] == [CLAIM]
    claim.release()


def test_a_claim_is_lent_inside_its_block_to_one_borrower_at_a_time(tmp_path: Path) -> None:
    claim = take(tmp_path)
    assert claim is not None
    refused: list[str] = []

    def other_thread() -> None:
        try:
            with claimed(tmp_path):
                pass
        except HeldError:
            refused.append("thread")

    with claim:
        for _ in range(2):  # one after the other
            with claimed(tmp_path) as borrowed:
                assert borrowed is claim
                with pytest.raises(HeldError), claimed(tmp_path):
                    pass
        thread = threading.Thread(target=other_thread)
        thread.start()
        thread.join()
        claim.check()
    assert refused == ["thread"]
    assert Watch().look(tmp_path) is None


def test_a_stopped_process_is_taken_over_and_says_so_when_it_goes_on(tmp_path: Path) -> None:
    code = (
        f"{ELSEWHERE}import sys, time\nclaims.BEAT = 0.05\n"
        "claim = claims.take(sys.argv[1])\nprint('held', flush=True)\n"
        "try:\n    while True:\n        claim.check()\n        time.sleep(0.01)\n"
        "except claims.LostError:\n    print('lost', flush=True)\n"
    )
    child = start(code, tmp_path)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    os.kill(child.pid, signal.SIGSTOP)
    with claimed(tmp_path) as claim:
        os.kill(child.pid, signal.SIGCONT)
        assert child.stdout.readline() == "lost\n"
        claim.check()
    assert child.wait(10) == 0


def test_a_job_of_slurm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    assert claims.this_process().job == ""
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert "(job 17)" in str(claims.this_process())
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "16")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert claims.this_process().job == "16_3"
