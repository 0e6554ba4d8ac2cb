"""Runtime and progress: shares, devices, words on standard error, and no torch before it is needed."""

from __future__ import annotations

import io
import re
import subprocess
import sys

import pytest
import torch

from svgbench.errors import BadInput
from svgbench.machine import progress
from svgbench.machine.progress import duration, open_bar
from svgbench.machine.runtime import Runtime


@pytest.mark.parametrize(("count", "world"), [(1, 1), (7, 3), (50, 4), (2, 5), (0, 2)])
def test_shares_of_all_ranks_are_every_index_once(count, world, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", str(world))
    seen = []
    for rank in range(world):
        monkeypatch.setenv("RANK", str(rank))
        seen += Runtime().shard(count)
    assert sorted(seen) == list(range(count))


def test_a_device_that_is_not_there_is_one_sentence():
    with pytest.raises(BadInput, match="'abacus' is not a device; use auto, cpu, cuda or cuda:N"):
        _ = Runtime(device="abacus").torch_device
    if not torch.cuda.is_available():
        with pytest.raises(BadInput, match="no CUDA device; use --device cpu"):
            _ = Runtime(device="cuda").torch_device


def test_autocast_changes_products_in_bf16_and_nothing_in_fp32():
    here, a = Runtime(device="cpu"), torch.ones(4, 4)
    with here.autocast("fp32"):
        assert (a @ a).dtype == torch.float32
    with here.autocast("bf16"):
        assert (a @ a).dtype == torch.bfloat16


def test_one_process_reduces_and_agrees_with_itself():
    here, value = Runtime(device="cpu"), torch.tensor([2.0])
    assert here.all_reduce_(value).item() == 2.0 and here.broadcast_(value).item() == 2.0
    assert here.all_agree(True) and not here.all_agree(False)
    here.barrier()


def test_the_description_names_host_device_threads_and_versions():
    described = Runtime(device="cpu").describe()
    assert {"host", "device", "device_name", "ranks", "threads", "torch", "numpy", "python", "svgbench", "commit"} <= described.keys()
    assert described["device"] == "cpu" and described["ranks"] == 1


def test_an_error_that_is_not_of_other_ranks_is_left_as_it_is():
    with pytest.raises(RuntimeError, match="shape"), Runtime().together("x"):
        raise RuntimeError("shape mismatch")


class Clock:
    """A clock the test moves."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


def test_lines_come_about_every_ten_seconds_and_at_the_end_with_rate_and_time_left(monkeypatch):
    clock, stream = Clock(), io.StringIO()
    monkeypatch.setattr(progress, "time", clock)
    with open_bar("SiT", 1000, unit="images", stream=stream) as bar:
        for _ in range(10):
            clock.now += 4.0
            bar.advance(100, loss=0.25)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "SiT: 300 of 1,000 images, 25.0 images/s, 28 s left, loss 0.25"
    assert len(lines) == 4
    assert lines[-1] == "SiT: 1,000 of 1,000 images, 25.0 images/s, 40 s in all, loss 0.25"


def test_work_of_an_earlier_start_does_not_enter_the_rate(monkeypatch):
    clock, stream = Clock(), io.StringIO()
    monkeypatch.setattr(progress, "time", clock)
    with open_bar("SiT", 1000, unit="images", done=900, stream=stream) as bar:
        clock.now = 10.0
        bar.advance(50)
    assert "950 of 1,000 images, 5.0 images/s" in stream.getvalue()


def test_a_terminal_gets_a_bar_with_count_and_figures(monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setenv("TERM", "xterm")

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    with open_bar("SiT", 1000, unit="images", stream=stream) as bar:
        bar.advance(1000, loss=0.5)
    assert "1,000/1,000 images" in stream.getvalue() and "loss 0.5" in stream.getvalue()


@pytest.mark.parametrize("label", ["SiT", "features of the training images, of a very long name, by the extractor"])
def test_at_80_columns_bar_count_rate_and_time_left_stay_whole(label, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    stream = type("Terminal", (io.StringIO,), {"isatty": lambda self: True})()
    with open_bar(label, 1_281_167, unit="images", stream=stream) as bar:
        bar.advance(640_000, perceptual=3.4, discriminator=0.98, generator=-0.04)
    line = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()).split("\r")[-1].strip("\n").splitlines()[-1]
    assert len(line) <= 80 and re.search(r"[━╸╺]{10,} 640,000/1,281,167 images [\d,.]+/s (\d|-):[\d-]{2}:[\d-]{2}", line)
    assert line.startswith("SiT ") or line.startswith("features of the")


def test_quiet_and_other_ranks_show_nothing(capsys, monkeypatch):
    with Runtime(quiet=True).progress("x", 10) as bar:
        bar.advance(10)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with Runtime().progress("x", 10) as bar:
        bar.advance(10)
    Runtime().notify("words")
    assert capsys.readouterr() == ("", "")


def test_a_closed_standard_error_stops_nothing():
    stream = io.StringIO()
    with open_bar("x", 10, unit="images", stream=stream) as bar:
        stream.close()
        bar.advance(10)
    assert bar.done == 10


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (18600, "5 h 10 min")])
def test_durations_read_as_people_say_them(seconds, text):
    assert duration(seconds) == text


def test_runtime_progress_files_folders_and_signals_import_without_torch():
    code = (
        "import sys; from svgbench.machine import runtime, progress, files, signals; from svgbench.images import folders\n"
        "runtime.Runtime(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
