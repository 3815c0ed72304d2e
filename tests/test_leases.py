import json
import os
import subprocess
import sys
import threading
import time

import pytest

from pipeline.run import leases
from pipeline.run.leases import Leases, born, create, here, holder

BEAT = 0.05


@pytest.fixture
def path(tmp_path):
    return tmp_path / "leases" / "unit"


def foreign(path, touched=0.0):
    """The lease of a process on another host, last touched so many seconds ago."""
    create(path, {"token": "theirs", "here": "another host", "pid": os.getpid(), "born": born(os.getpid())})
    now = time.time()
    os.utime(path, (now - touched, now - touched))


def held(path, by=None):
    with (by or Leases(BEAT)).lease(path, {}) as mine:
        return mine


def test_one_holds_a_lease_until_it_ends(path):
    mine, other = Leases(BEAT), Leases(BEAT)
    with mine.lease(path, {"part": 3}) as first:
        assert first and not held(path, other) and holder(path)["part"] == 3
    assert not path.exists() and held(path, other)
    with pytest.raises(KeyboardInterrupt), mine.lease(path, {}):
        raise KeyboardInterrupt
    assert list(path.parent.iterdir()) == []


def test_of_many_that_want_it_one_gets_it(path, monkeypatch):
    """Also where all find a dead process's lease and only then go on, slowly."""
    plain, quick, found = Leases.dead, holder, threading.Barrier(8)

    def slow(of):
        known = quick(of)
        time.sleep(0.02)
        return known

    def seen(self, of, known):
        is_dead = plain(self, of, known)
        if of == path:
            found.wait(10)
        return is_dead

    for left in (None, "dead"):
        if left:
            create(path, {"token": "dead", "here": here(), "pid": 2**22 + 1, "born": "1"})
            monkeypatch.setattr(Leases, "dead", seen)
            monkeypatch.setattr(leases, "holder", slow)
        start, finish, got = threading.Barrier(8), threading.Barrier(8), []

        def want(start=start, finish=finish, got=got):
            start.wait(10)
            with Leases(60.0).lease(path, {}) as mine:
                got.append(mine)
                finish.wait(10)

        threads = [threading.Thread(target=want) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(got) == [False] * 7 + [True]


def test_a_killed_process_of_this_host_holds_nothing(path):
    program = (
        "import sys, time; from pathlib import Path; from pipeline.run.leases import Leases\n"
        f"with Leases(60).lease(Path({str(path)!r}), {{}}): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        assert not held(path)
        process.kill()
        while born(process.pid) is not None:
            time.sleep(0.01)
        assert held(path), "before anybody asked how it ended"


def test_a_process_number_that_is_used_again_is_another_process(path):
    create(path, {"token": "old", "here": here(), "pid": os.getpid(), "born": "1"})
    assert held(path)


def test_heartbeats_keep_a_lease_on_another_host(path):
    foreign(path)
    beating, stop = Leases(BEAT), threading.Event()
    thread = threading.Thread(target=leases.touch, args=(path, BEAT, stop))
    thread.start()
    end = time.monotonic() + 12 * BEAT
    while time.monotonic() < end:
        assert not held(path, beating)
        time.sleep(BEAT / 5)
    stop.set()
    thread.join()
    assert not held(path, beating)
    time.sleep(BEAT * (leases.BEATS + 1))
    assert held(path, beating)


@pytest.mark.parametrize("hours", [-5, 0, 5])
def test_a_clock_that_jumped_kills_nobody(path, hours):
    """A lease that seems hours old, or from the future, is watched before it is taken."""
    foreign(path, touched=3600 * hours)
    watching = Leases(BEAT)
    assert not held(path, watching)
    os.utime(path, (time.time() - 3600 * hours + 1,) * 2)  # it lives
    time.sleep(3 * BEAT)
    assert not held(path, watching)
    time.sleep(BEAT * (leases.BEATS + 1))
    assert held(path, watching)


def test_an_old_lease_is_taken_sooner(path):
    foreign(path, touched=3600)
    watching = Leases(1.0)
    assert not held(path, watching)
    watching._watched[path] = (watching._watched[path][0], time.monotonic() - 2.1)
    assert held(path, watching)


def test_only_the_lease_that_was_seen_dead_is_taken_away(path):
    """Between our look and our taking it, another process took it over."""
    dead = {"token": "dead", "here": here(), "pid": 2**22 + 1, "born": "1"}
    create(path, {"token": "theirs"})
    Leases(BEAT).clear(path, dead)
    assert holder(path) == {"token": "theirs"}
    path.unlink()
    create(path, dead)
    Leases(BEAT).clear(path, dead)
    assert list(path.parent.iterdir()) == []


def test_who_took_a_dead_lease_away_may_die_in_it(path):
    dead = {"token": "dead", "here": here(), "pid": 2**22 + 1, "born": "1"}
    create(path, dead)
    create(path.with_name(".unit.dead"), {**dead, "token": "taker"})
    assert held(path) and list(path.parent.iterdir()) == []


def test_a_lease_that_was_taken_away_is_not_given_back(path):
    """Of a process that stood still for long: the new holder keeps its lease."""
    with Leases(60.0).lease(path, {}) as mine:
        assert mine
        path.write_text(json.dumps({"token": "theirs"}))
    assert holder(path) == {"token": "theirs"}
