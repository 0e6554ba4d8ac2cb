"""Faults of the machine under whole commands: a disk that is really full, many starts at once, a slow file system."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import forked
from grids import digests, grid_file, numbers

from svgbench.errors import StorageError
from svgbench.lab.store import Store
from svgbench.machine import files


def ended(child: int, said: Path) -> tuple[int, str]:
    """Status and output of a forked command."""
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, said.read_text(errors="replace")


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of its own of 64 MB, for root alone."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield place
    subprocess.run(["umount", "-l", place], check=False)


def fill(disk: Path, room: int) -> Path:
    """A file that leaves ``room`` bytes."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - room)
    return ballast


def test_a_full_disk_is_status_5_at_every_stage_and_the_same_command_goes_on(alone, small_disk, tmp_path, record_property):
    """The room grows from nothing to enough, so that the disk is full in one stage after the other."""
    grid, out, said, full = grid_file(tmp_path), small_disk / "runs", tmp_path / "said", 0
    for room in (0, 40_000, 150_000, 400_000, 800_000, 1_600_000, 3_000_000):
        ballast = fill(small_disk, room)
        status, words = ended(forked(said, "ablate", grid, "--out", out, "--threads", 1), said)
        ballast.unlink()
        if status == 3:
            break
        full += 1
        assert status == 5 and "free some space" in words and "Traceback" not in words, words
    assert full > 3
    status, words = ended(forked(said, "ablate", grid, "--out", out, "--threads", 1), said)
    assert status == 3, words
    assert digests(out) == digests(alone) and numbers(out) == numbers(alone)
    record_property("trials", full)


def test_a_disk_that_becomes_read_only_is_status_5(small_disk, tmp_path):
    grid, said = grid_file(tmp_path), tmp_path / "said"
    (small_disk / "runs").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    status, words = ended(forked(said, "ablate", grid, "--out", small_disk / "runs", "--threads", 1), said)
    assert status == 5 and "read-only" in words and "Traceback" not in words, words


def test_twenty_starts_at_once_make_the_tables_of_one(alone, tmp_path, record_property):
    """Half of them are killed while they share the work; the rest end with what one process makes."""
    grid, out = grid_file(tmp_path), tmp_path / "runs"
    children = [forked(tmp_path / f"said-{n}", "ablate", grid, "--out", out, "--threads", 1) for n in range(20)]
    time.sleep(3.0)
    for child in children[::2]:
        os.kill(child, signal.SIGKILL)
    found = [ended(child, tmp_path / f"said-{n}") for n, child in enumerate(children)]
    for status, words in found[1::2]:
        assert status == 3 and "Traceback" not in words and "fault of svgbench" not in words, words
    assert digests(out) == digests(alone) and numbers(out) == numbers(alone)
    assert not [path for path in out.rglob("*") if path.name.startswith(files.TEMPORARY)]
    record_property("trials", len(found))


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOSPC])
def test_a_flush_that_fails_is_a_sentence_and_the_old_file_stays(tmp_path, monkeypatch, number):
    """Network file systems report a lost write at fsync, not at write."""
    path = tmp_path / "file"
    files.write_atomic(path, b"old")

    def fails(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(StorageError):
        files.write_atomic(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_an_artifact_that_another_machine_sees_late_is_not_taken_for_a_broken_one(tmp_path):
    """A directory whose manifest is not visible yet is not finished, whatever else is there."""
    store = Store(tmp_path)
    place = store.place("stage", "ab" * 32)
    place.mkdir(parents=True)
    (place / "data.bin").write_bytes(b"content")
    assert store.manifest("stage", "ab" * 32) is None
