"""Blocks of rows on disk: what a killed attempt finished is kept, what is damaged or of another request is computed again."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from toys import in_child, in_ranks

from svgbench.errors import BadData, Interrupted, NumericalError, StorageError
from svgbench.machine import blocks
from svgbench.machine.blocks import Array, Blocks
from svgbench.machine.runtime import Runtime

COUNT, SIZE = 37, 5
QUIET = Runtime(device="cpu", threads=1, quiet=True)


def fill(
    out: Path,
    *,
    count: int = COUNT,
    size: int = SIZE,
    runtime: Runtime = QUIET,
    begun: list | None = None,
    work=None,
    behind: bool = False,
    arrive=None,
) -> None:
    """Squares of the items, and the sum of each block. ``behind``: a thread waits for the rows and saves them; ``arrive``: called there."""
    runtime.start()

    def rows(items: range) -> tuple[np.ndarray, np.ndarray]:
        if begun is not None:
            begun.append(items.start)
        if work:
            work(items)
        squares = np.array(items, np.float32)[:, None] ** [1, 2]
        return squares.astype(np.float32), squares.sum(dtype=np.float64)[None]

    def later(items: range):
        computed = rows(items)

        def arrived():
            if arrive:
                arrive(items)
            return computed

        return arrived

    out.mkdir(exist_ok=True)
    files = [Array(out / "squares.npy", np.float32, (2,)), Array(out / "work" / "sums.npy", np.float64, (), by_block=True)]
    (out / "work").mkdir(exist_ok=True)
    Blocks(out / "work" / "squares", files, count=count, size=size, runtime=runtime, label="squares").run(
        later if behind else rows, behind=behind
    )


def right(out: Path, count: int = COUNT, size: int = SIZE) -> bool:
    squares = np.arange(count, dtype=np.float32)[:, None] ** [1, 2]
    sums = [squares[start : start + size].astype(np.float32).sum(dtype=np.float64) for start in range(0, count, size)]
    found = np.load(out / "squares.npy"), np.load(out / "work" / "sums.npy")
    return found[0].tobytes() == squares.astype(np.float32).tobytes() and found[1].tolist() == sums


def begun(out: Path, kills: int) -> Path:
    """Some blocks, then a kill behind the rows of the next."""
    assert in_child(lambda: fill(out), failpoint=f"blocks.rows:{kills}") == -signal.SIGKILL
    return out


@pytest.mark.parametrize("point", [f"{name}:{number}" for name in ("blocks.rows", "blocks.journal") for number in (1, 4, 8)]
                         + ["file.before_rename:1", "file.renamed:1"])  # fmt: skip
def test_killed_anywhere_it_ends_with_all_rows_and_no_finished_block_is_computed_again(tmp_path, point):
    assert in_child(lambda: fill(tmp_path), failpoint=point) == -signal.SIGKILL
    again: list[int] = []
    fill(tmp_path, begun=again)
    name, number = point.split(":")
    done = {"blocks.rows": int(number) - 1, "blocks.journal": int(number)}.get(name, 0)
    assert right(tmp_path) and again == list(range(done * SIZE, COUNT, SIZE))
    once_more: list[int] = []
    fill(tmp_path, begun=once_more)
    assert once_more == []


def test_killed_at_random_moments_it_ends_with_all_rows(tmp_path):
    moments = random.Random(0)
    for _ in range(8):
        assert in_child(lambda: fill(tmp_path), kill_after=moments.uniform(0, 0.02)) in (0, -signal.SIGKILL)
    fill(tmp_path)
    assert right(tmp_path)


def cut_line(out: Path) -> None:
    journal = out / "work" / "squares.0.jsonl"
    journal.write_bytes(journal.read_bytes()[:-9])


def garbage(out: Path) -> None:
    with (out / "work" / "squares.0.jsonl").open("ab") as file:
        file.write(b"\x00\xff\xfe\x00" * 9 + b'\n{"block": 6, "sha256": "00"}\n')


def foreign_lines(out: Path) -> None:
    with (out / "work" / "squares.0.jsonl").open("a") as file:
        file.write('{"block": 99, "sha256": "00"}\n{"block": "x"}\n{}\n')


def flipped(out: Path) -> None:
    content = bytearray((out / "squares.npy").read_bytes())
    content[-8 * (COUNT - 6)] ^= 4  # of item 6, in the second block
    (out / "squares.npy").write_bytes(bytes(content))


def zeroed(out: Path) -> None:
    """What a power cut leaves of pages that were never written."""
    np.lib.format.open_memmap(out / "work" / "sums.npy", mode="r+")[:3] = 0


def cut_rows(out: Path) -> None:
    content = (out / "squares.npy").read_bytes()
    (out / "squares.npy").write_bytes(content[: len(content) // 2])


def removed(out: Path) -> None:
    (out / "work" / "sums.npy").unlink()


def other_type(out: Path) -> None:
    np.save(out / "squares.npy", np.zeros((COUNT, 2)))


def not_an_array(out: Path) -> None:
    (out / "squares.npy").write_text("an image?")


@pytest.mark.parametrize(
    ("damage", "left"),
    [(cut_line, 2), (garbage, 3), (foreign_lines, 3), (flipped, 2), (zeroed, 0), (cut_rows, 0), (removed, 0), (other_type, 0),
     (not_an_array, 0)],
)  # fmt: skip
def test_what_is_damaged_is_computed_again_and_said(tmp_path, capsys, damage, left):
    damage(begun(tmp_path, 4))
    again: list[int] = []
    fill(tmp_path, begun=again)
    assert right(tmp_path) and len(again) == 8 - left
    told = capsys.readouterr().err
    assert ("saved blocks are damaged; they are computed again" in told) == (damage in (flipped, zeroed))


@pytest.mark.parametrize("other", [{"count": COUNT + 1}, {"size": SIZE + 1}])
def test_the_beginning_of_another_request_does_not_count(tmp_path, other):
    begun(tmp_path, 4)
    again: list[int] = []
    fill(tmp_path, begun=again, **other)
    assert again[0] == 0 and right(tmp_path, other.get("count", COUNT), other.get("size", SIZE))


@pytest.mark.parametrize(("before", "after"), [(2, 1), (2, 3), (1, 2)])
def test_another_number_of_ranks_goes_on_with_the_same_blocks(tmp_path, before, after):
    computed = tmp_path / "computed"

    def noted(items: range) -> None:
        with computed.open("a") as file:
            file.write(f"{items.start}\n")

    statuses = in_ranks(before, lambda: fill(tmp_path, work=noted), failpoints={before - 1: "blocks.rows:2"})
    assert all(statuses)
    assert in_ranks(after, lambda: fill(tmp_path, work=noted)) == [0] * after
    assert right(tmp_path)
    lines = computed.read_text().split()
    assert len(set(lines)) == 8 and len(lines) - 8 <= before


def test_one_rank_that_fails_or_is_stopped_ends_all_with_its_status(tmp_path):
    def stage(what) -> None:
        def work(items: range) -> None:
            if items.start == 5:  # the second rank's first block
                what()

        fill(tmp_path / what.__name__, work=work)

    def bad() -> None:
        raise BadData("an image is unreadable.")

    def full() -> None:
        raise StorageError("the disk is full.")

    def stopped() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    for what, wanted in ((bad, [1, 2]), (full, [5, 5]), (stopped, [4, 4])):
        assert in_ranks(2, lambda: stage(what)) == wanted, what  # noqa: B023
        again: list[int] = []
        fill(tmp_path / what.__name__, begun=again)
        assert right(tmp_path / what.__name__) and 0 not in again


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_in_a_block_is_a_sentence_and_the_finished_blocks_are_kept(tmp_path, monkeypatch, number):
    append, lines = blocks.append_line, []

    def failing(path: Path, line: dict) -> None:
        lines.append(line)
        if len(lines) == 4:
            path.open("a").write('{"block": 3, "sha')
            raise OSError(number, os.strerror(number), str(path))
        append(path, line)

    with monkeypatch.context() as patch, pytest.raises(StorageError, match="run the same command again"):
        patch.setattr(blocks, "append_line", failing)
        fill(tmp_path)
    again: list[int] = []
    fill(tmp_path, begun=again)
    assert right(tmp_path) and again == list(range(3 * SIZE, COUNT, SIZE))


def test_too_little_space_is_said_before_the_first_block(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise StorageError("the disk is full; free some space.")

    monkeypatch.setattr(blocks.arrays, "create", full)
    with pytest.raises(StorageError, match="the disk is full"):
        fill(tmp_path)


def test_rows_of_another_shape_are_a_fault_of_the_caller(tmp_path):
    work = Blocks(tmp_path / "x", [Array(tmp_path / "x.npy", np.float32, (2,))], count=4, size=2, runtime=QUIET, label="x")
    with pytest.raises(ValueError, match=r"x\.npy takes float32 \(2, 2\)"):
        work.run(lambda items: [np.zeros((2, 3), np.float32)])
    assert len([json.loads(line) for line in (tmp_path / "x.0.jsonl").read_text().splitlines()]) == 1


# --- a thread that saves behind the computation ---


def test_behind_the_files_are_the_same_and_blocks_are_saved_in_order_while_the_next_is_computed(tmp_path):
    order: list[tuple[str, int]] = []
    fill(tmp_path / "a")
    fill(tmp_path / "b", behind=True, work=lambda items: order.append(("compute", items.start)),
         arrive=lambda items: order.append(("save", items.start)))  # fmt: skip
    for name in ("squares.npy", "work/sums.npy", "work/squares.0.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    saved, computed = ([start for what, start in order if what == kind] for kind in ("save", "compute"))
    assert saved == computed == list(range(0, COUNT, SIZE))
    place = {event: number for number, event in enumerate(order)}
    assert all(place["compute", start + 2 * SIZE] > place["save", start] for start in saved[:-2])  # at most one block waits


def test_behind_a_block_is_computed_while_the_one_before_it_is_saved(tmp_path):
    computed = [threading.Event() for _ in range(8)]

    def arrive(items: range) -> None:
        block = items.start // SIZE
        assert block == 7 or computed[block + 1].wait(60)  # never set if computation waited for the save

    fill(tmp_path, behind=True, work=lambda items: computed[items.start // SIZE].set(), arrive=arrive)
    assert right(tmp_path)


@pytest.mark.parametrize("point", [f"{name}:{number}" for name in ("blocks.rows", "blocks.journal") for number in (1, 4, 8)])
def test_behind_a_kill_keeps_what_the_thread_finished(tmp_path, point):
    assert in_child(lambda: fill(tmp_path, behind=True), failpoint=point) == -signal.SIGKILL
    again: list[int] = []
    fill(tmp_path, begun=again, behind=True)
    name, number = point.split(":")
    done = int(number) - (name == "blocks.rows")
    assert right(tmp_path) and again == list(range(done * SIZE, COUNT, SIZE))


@pytest.mark.parametrize("fault", [NumericalError("images hold NaN."), OSError(errno.ENOSPC, "no space")])
@pytest.mark.parametrize("block", [0, 3, 7])
def test_behind_an_error_of_the_thread_ends_the_run_with_its_class_and_keeps_what_was_saved(tmp_path, fault, block):
    begun: list[int] = []

    def arrive(items: range) -> None:
        if items.start == block * SIZE:
            raise fault

    with pytest.raises(NumericalError if isinstance(fault, NumericalError) else StorageError):
        fill(tmp_path, behind=True, begun=begun, arrive=arrive)
    assert max(begun) <= (block + 1) * SIZE  # nothing is computed beyond the block that waited
    again: list[int] = []
    fill(tmp_path, begun=again)
    assert right(tmp_path) and again == list(range(block * SIZE, COUNT, SIZE))


def test_behind_an_error_of_the_computation_waits_for_the_block_before_it(tmp_path):
    def work(items: range) -> None:
        if items.start == 3 * SIZE:
            raise BadData("an image is unreadable.")

    with pytest.raises(BadData):
        fill(tmp_path, behind=True, work=work, arrive=lambda items: time.sleep(0.05))
    again: list[int] = []
    fill(tmp_path, begun=again)
    assert right(tmp_path) and again == list(range(3 * SIZE, COUNT, SIZE))


def test_behind_a_signal_abandons_the_block_and_the_message_counts_what_is_saved(tmp_path):
    def work(items: range) -> None:
        if items.start == 4 * SIZE:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)  # the signal interrupts this

    with pytest.raises(Interrupted, match="stopped by SIGTERM after 20 of 37 images, which are saved"):
        fill(tmp_path, behind=True, work=work, arrive=lambda items: time.sleep(0.05))
    again: list[int] = []
    fill(tmp_path, begun=again)
    assert right(tmp_path) and again == list(range(4 * SIZE, COUNT, SIZE))


def test_behind_two_ranks_share_the_blocks_and_end_together(tmp_path):
    assert in_ranks(2, lambda: fill(tmp_path / "whole", behind=True)) == [0, 0]
    assert right(tmp_path / "whole")

    def arrive(items: range) -> None:
        if items.start == SIZE:  # the second rank's first block
            raise BadData("an image is unreadable.")

    assert in_ranks(2, lambda: fill(tmp_path / "bad", behind=True, arrive=arrive)) == [1, 2]
    fill(tmp_path / "bad")
    assert right(tmp_path / "bad")
