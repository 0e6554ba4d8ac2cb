"""Signals at any moment, from the first millisecond on: the program ends within seconds, with status 4 and one sentence, and the same
command afterwards gives what an undisturbed one gives. ``SVGBENCH_SOAK=hours`` sends as many as fit into that time."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import svgbench
from PIL import Image

from svgbench.cli import commands
from svgbench.errors import StorageError, SvgbenchError
from svgbench.machine import signals
from svgbench.machine.signals import GUARD, Stop, StopSignal

STOPS = tuple(number.name for number in signals.SIGNALS)
SCRIPT = [str(Path(sys.executable).with_name("svgbench"))]


def heard() -> None:
    """As in a terminal: a shell that starts the tests in the background has SIGINT and SIGQUIT ignored."""
    for name in STOPS:
        signal.signal(getattr(signal, name), signal.SIG_DFL)


def ended(words: list[str], name: str, delay: float) -> tuple[int, str, float]:
    """Status, standard error and seconds from the signal on of a command that gets it after ``delay`` seconds."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    time.sleep(delay)
    process.send_signal(getattr(signal, name))
    sent = time.monotonic()
    try:
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    return process.returncode, said, time.monotonic() - sent


def held(words: list[str], name: str, delay: float) -> int:
    """One signal, and what must be true of the end; the status."""
    status, said, seconds = ended(words, name, delay)
    at = f"{name} after {delay:.3f} s: status {status} after {seconds:.1f} s: {said}"
    assert seconds < 10, at
    early = status == -getattr(signal, name) or (status == 1 and said.rstrip().endswith("KeyboardInterrupt") and "svgbench/cli" not in said)
    assert status in (0, 4) or early, at  # early: Python itself was not up yet
    assert "Traceback" not in said or early, at
    if status == 4:
        assert said.count("stopped by") == 1 and "same command" in said.splitlines()[-1], at
    return status


def test_a_storm_over_the_start_of_a_quick_command():
    moments = random.Random(7)
    trials = [(name, moments.uniform(0.0, 0.7)) for name, _ in itertools.product(STOPS, range(2))]
    assert [held([*SCRIPT, "plan", "smoke"], name, delay) for name, delay in trials].count(4) > 3


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("photos")
    for number in range(60):
        path = place / f"class-{number % 3}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.effect_noise((64, 64), 90 + number).convert("RGB").save(path)
    return place


def test_packing_under_signals_ends_with_the_bytes_of_an_undisturbed_one(photos, tmp_path):
    words = ["data", "pack", str(photos), "--resolution", "32", "--to"]
    assert svgbench(*words, tmp_path / "quiet").returncode == 0
    moments = random.Random(3)
    for name in STOPS[::2]:
        held([*SCRIPT, *words, str(tmp_path / "rough")], name, moments.uniform(0.1, 1.2))
    svgbench(*words, tmp_path / "rough")
    quiet, rough = ({p.name: p.read_bytes() for p in (tmp_path / side).glob("*.npy")} for side in ("quiet", "rough"))
    assert quiet == rough and quiet


def test_a_hang_up_that_nohup_set_aside_does_not_stop():
    done = subprocess.run(
        ["sh", "-c", 'trap "" HUP; "$0" plan smoke & p=$!; sleep 0.3; kill -HUP $p; wait $p', *SCRIPT], capture_output=True, text=True
    )
    assert done.returncode == 0 and "Plan of smoke" in done.stdout


INSIDE = """
import os, signal, sys, threading, time
from svgbench.machine import signals
signals.GRACE_SECONDS = 1.0
signals.GUARD.install()
signals.GUARD.working = True
{}
"""
STUCK = {
    "an exception is lost in a destructor": "class Lost:\n def __del__(self): os.kill(os.getpid(), signal.SIGTERM)\nLost()\ntime.sleep(20)",
    "a library keeps every exception": "for _ in range(400):\n try: os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.05)\n except: pass",
    "the main thread waits for a lock in C": "import ctypes\nlock, c = ctypes.create_string_buffer(64), ctypes.CDLL(None)\n"
    "threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1)).start()\nfor _ in range(2): c.pthread_mutex_lock(lock)",
    "a library has set a handler of its own": "signal.signal(15, lambda *_: None); os.kill(os.getpid(), 15); time.sleep(20)",
    "its standard error is a full pipe": "r, w = os.pipe(); os.set_blocking(w, False)\ntry:\n while os.write(w, b'x' * 4096): pass\n"
    "except BlockingIOError: pass\nos.set_blocking(w, True); os.dup2(w, 2); os.kill(os.getpid(), 15)\nos.write(2, b'x')",
}


@pytest.mark.parametrize("how", STUCK)
def test_whatever_the_main_thread_does_the_process_ends(how):
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", INSIDE.format(STUCK[how])], capture_output=True, text=True, timeout=15)
    assert done.returncode == 4 and time.monotonic() - began < 8, done.stderr
    assert ("stopped by SIG" in done.stderr) != ("full pipe" in how)


DOWN = """
import os, sys, time
from svgbench.cli.main import main
class Slow:
    def __del__(self, write=os.write, sleep=time.sleep):
        write(2, b"taken down\\n")
        sleep(0.5)
slow = Slow()
sys.argv = ["svgbench", "--version"]
main()
"""


@pytest.mark.parametrize("name", STOPS)
def test_a_signal_while_a_finished_command_is_taken_down_leaves_its_status(name):
    process = subprocess.Popen([sys.executable, "-c", DOWN], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, preexec_fn=heard)
    assert process.stderr.readline() == b"taken down\n"
    process.send_signal(getattr(signal, name))
    assert (process.communicate(timeout=20)[1], process.returncode) == (b"", 0)


def test_a_second_ctrl_c_ends_at_once_and_one_that_comes_twice_does_not():
    code = INSIDE.format(
        "signals.AGAIN_SECONDS, signals.GRACE_SECONDS = 0.4, 9.0\nwith signals.Stop() as stop:\n"
        " os.kill(os.getpid(), 2); os.kill(os.getpid(), 2); time.sleep(0.1)\n assert stop.received == 2\n"
        " print('saved', flush=True); time.sleep(0.5)\n try: os.kill(os.getpid(), 2); time.sleep(20)\n finally: time.sleep(20)"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == 4 and done.stdout == "saved\n" and time.monotonic() - began < 8, done.stderr


def test_a_checkpoint_being_written_is_waited_for():
    code = INSIDE.format(
        "signals.GRACE_SECONDS = 0.3\nwith signals.Stop() as stop, signals.GUARD.hold():\n os.kill(os.getpid(), 15); time.sleep(1.2)\n"
        " print('written', flush=True)\ntime.sleep(20)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=15)
    assert done.returncode == 4 and done.stdout == "written\n", done.stderr


def test_an_update_in_hand_is_waited_for_as_long_as_updates_take(monkeypatch):
    times = iter([10.0, 20.0, 40.0, 41.0])
    stop = Stop()
    assert stop.patience == 0.0
    monkeypatch.setattr(signals, "time", type("Clock", (), {"monotonic": staticmethod(lambda: next(times))}))
    for _ in range(4):
        stop.unit()
    assert stop.patience == 40.0  # twice the longest


def test_a_program_that_calls_main_keeps_its_own_handlers():
    from commands import svgbench

    before = {name: signal.getsignal(getattr(signal, name)) for name in STOPS}
    assert svgbench("plan", "smoke").returncode == 0
    assert {name: signal.getsignal(getattr(signal, name)) for name in STOPS} == before and not GUARD.installed


def test_what_a_library_swallowed_is_raised_again_at_the_next_piece_of_work(monkeypatch):
    monkeypatch.setattr(GUARD, "received", signal.SIGTERM)
    monkeypatch.setattr(GUARD, "working", True)
    from svgbench.machine.progress import Bar

    with pytest.raises(StopSignal, match="stopped by SIGTERM"):
        Bar("x", 1, unit="images").advance(1)
    with Stop() as stop:
        Bar("x", 1, unit="images").advance(1)
    assert stop.received == signal.SIGTERM


@pytest.mark.parametrize(
    "error", [OSError(errno.EBADF, "Bad file descriptor"), StorageError("x: the disk is full."), SvgbenchError("x failed.")]
)
def test_an_error_that_follows_a_signal_is_told_as_the_stop(monkeypatch, error):
    """A signal breaks off a write between two system calls: the file is closed twice, or its reader fails."""

    def broken_off(words: list[str]) -> int:
        GUARD.received = signal.SIGTERM
        raise error

    monkeypatch.setattr(commands, "call", broken_off)
    done = svgbench("plan", "smoke")
    assert done.returncode == 4 and "stopped by SIGTERM" in done.stderr and str(error) not in done.stderr


@pytest.mark.skipif("SVGBENCH_SOAK" not in os.environ, reason="takes as many hours as SVGBENCH_SOAK says")
def test_a_storm_over_a_whole_grid_ends_with_its_table(tmp_path):
    words = [*SCRIPT, "ablate", "smoke", "--threads", "1", "--set", "scores.segmentation.epochs=1", "--out"]

    def finished(out: str) -> list:
        subprocess.run([*words, out], capture_output=True, check=True)
        rows = [row for path in sorted(Path(out).glob("*/scores.json")) for row in json.loads(path.read_text())]
        return [(row["run"], row["metric"], row["value"], row["low"], row["high"], row["key"], row["protocol"]) for row in rows]

    quiet = finished(str(tmp_path / "quiet"))
    moments, end, counts, number = random.Random(1), time.monotonic() + 3600 * float(os.environ["SVGBENCH_SOAK"]), {}, 0
    while time.monotonic() < end:
        out, number = str(tmp_path / f"rough-{number}"), number + 1
        for _ in range(6):
            status = held([*words, out], moments.choice(STOPS), moments.uniform(0.0, 9.0))
            counts[status] = counts.get(status, 0) + 1
        assert finished(out) == quiet and quiet
    sys.stderr.write(f"{sum(counts.values())} signals: {counts}\n")
