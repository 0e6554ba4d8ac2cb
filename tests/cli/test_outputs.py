"""What reaches the terminal is text and nothing more; closed, full and narrow outputs, odd paths, half an environment and endless YAML are
each one sentence with its status."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import svgbench
from torch._dynamo.exc import BackendCompilerFailed

from svgbench.cli.failures import explained
from svgbench.errors import BadConfig, BadInput, SvgbenchError, notify, printable
from svgbench.machine.ranks import Ranks, check_environment, ranks, timeout_minutes
from svgbench.shelf import DEEPEST, LONGEST, read_yaml
from svgbench.tables.latex import latex
from svgbench.tables.page import page
from svgbench.tables.table import Cell, Table

SCRIPT = str(Path(sys.executable).with_name("svgbench"))
FORGED = "x\x1b]0;owned\x07\x1b[2J\nStorageError: forged\r\x9b31m\u202egpj.exe\u2028\udcff\x00"


def shell(line: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A line of sh in which $S is the command."""
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, env={**os.environ, **env, "S": SCRIPT}, timeout=60)


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("$S encoders >&-", 5, "standard output is closed"),
        ("$S --help >&-", 5, "standard output is closed"),
        ("$S encoders >/dev/full", 5, "standard output cannot be written (No space left on device)"),
        ("$S --version >/dev/full", 5, "standard output cannot be written (No space left on device)"),
        ("$S plan nosuch 2>&-", 2, ""),
        ("$S plan smoke <&- >&- 2>&-", 5, ""),
        ("$S encoders | head -1; exit ${PIPESTATUS[0]}", 0, ""),
        ("$S plan smoke | true; exit ${PIPESTATUS[0]}", 0, ""),
        ("$S plan smoke 2>&1 >/dev/null | true; exit ${PIPESTATUS[0]}", 0, ""),
    ],
)
def test_an_output_that_is_closed_full_or_not_read_to_its_end(line, status, said):
    done = shell(line)
    assert done.returncode == status and said in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == (1 if said else 0)


@pytest.mark.parametrize("env", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_a_character_set_without_our_letters_gets_others(env):
    done = shell("$S data verify $'n\\u00fcrnberg \\u00b1'; $S plan smoke", COLUMNS="none", **env)
    assert done.returncode == 0 and "Plan of smoke" in done.stdout and "is missing" not in done.stderr
    assert done.stdout.isascii() and done.stderr.isascii() and len(done.stderr.splitlines()) == 1


def test_foreign_text_is_printable_and_words_of_any_language_stay():
    shown = printable(FORGED)
    assert shown == "x\\x1b]0;owned\\x07\\x1b[2J\\nStorageError: forged\\r\\x9b31m\\u202egpj.exe\\u2028\\udcff\\x00"
    for text in ("Größe ± 0.5 µm", "猫と犬", "می‌خواهم", "👩‍👩‍👧 family", "a\u00a0b"):
        assert printable(text) == text


@pytest.mark.parametrize("words", [("plan", FORGED[:-1]), (FORGED[:-1],), ("run", "--data", FORGED[:-1]), ("run", "--align", FORGED[:-1]),
                                   ("plan", "smoke", "--set", FORGED[:-2] + "=1"), ("report", FORGED[:-1]),
                                   ("sample", FORGED[:-1], "--to", "x.png"),
                                   ("data", "pack", FORGED[:-1], "--to", "x"), ("run", "--encoder", FORGED[:-1])])  # fmt: skip
def test_no_word_of_the_user_forges_a_line_or_reaches_the_terminal_as_a_command(words):
    done = svgbench(*words)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.rstrip("\n").isprintable() and "fault of svgbench" not in done.stderr


def test_tables_in_every_format_hold_names_as_text_alone():
    cell = Cell(FORGED, place=1, value=1.0, hint=FORGED, protocol=FORGED)
    table = Table(f"of {FORGED}", ["run", FORGED], [[FORGED, cell]], [f"[a] {FORGED}", FORGED])
    for text in (table.markdown(), table.csv(), latex([table]), page([table], title=FORGED)):
        assert not {letter for letter in text if not letter.isprintable()} - {"\n"}
        assert not any(line.startswith("StorageError") for line in text.splitlines())
    assert table.plain().rows[0][1].value == 1.0 and table.plain().rows[0][1].place == 1


def test_a_standard_error_that_is_gone_stops_nothing(monkeypatch):
    class Gone:
        def write(self, text):
            raise OSError(errno.EIO, "the terminal was closed")

    for stream in (Gone(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        notify("a sentence")


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (OSError(errno.ENAMETOOLONG, "x", "a" * 300), 2, "longer than the file system allows"),
        (OSError(errno.ELOOP, "x", "loop"), 2, "loop: its symbolic links form a loop"),
        (RuntimeError("Symlink loop from 'a/b'"), 2, "'a/b': its symbolic links form a loop"),
        (FileNotFoundError(errno.ENOENT, "x", "gone"), 2, "gone: does not exist"),
        (PermissionError(errno.EACCES, "x", "secret"), 2, "secret: permission is denied"),
        (OSError(errno.ENOSPC, "x", "here"), 5, "here: the disk is full"),
        (OSError(errno.ESTALE, "x", "nfs"), 5, "nfs: "),
        (OSError(errno.EMFILE, "Too many open files"), 5, "too many files are open"),
        (ValueError("embedded null byte"), 2, "zero byte"),
        (UnicodeEncodeError("utf-8", "a\udcff", 1, 2, "surrogates not allowed"), 2, "not UTF-8"),
        (MemoryError(), 1, "memory"),
        (torch.OutOfMemoryError("CUDA out of memory."), 1, "checkpoint-activations"),
        (BackendCompilerFailed(print, RuntimeError("no compiler"), None), 1, "--no-compile"),
        (KeyboardInterrupt(), 4, "stopped by Ctrl-C"),
    ],
)
def test_errors_of_paths_disks_and_memory_are_a_sentence(error, status, said):
    found, _, sentence = explained(error)
    assert found == status and said in sentence and "fault of svgbench" not in sentence and sentence.endswith(".")


@pytest.mark.parametrize("verb", [("run", "--out"), ("report", "--out"), ("data", "verify"), ("plan", "smoke", "--shelf"),
                                  ("plan", "smoke", "--data")])  # fmt: skip
@pytest.mark.parametrize("path", ["a" * 300, "loop", "loop/inside"])
def test_a_name_too_long_and_links_in_a_circle_are_answered_by_every_verb(tmp_path, monkeypatch, verb, path):
    monkeypatch.chdir(tmp_path)
    os.symlink("loop", "loop")
    done = svgbench(*verb, path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "fault of svgbench" not in done.stderr


TWO = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture
def alone(monkeypatch):
    for name in TWO:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"RANK": "1"}, "RANK but not WORLD_SIZE"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE but not RANK"),
        ({"LOCAL_RANK": "0"}, "LOCAL_RANK but not RANK"),
        ({**TWO, "LOCAL_RANK": None}, "not LOCAL_RANK"),
        ({**TWO, "MASTER_ADDR": None}, "not MASTER_ADDR"),
        ({**TWO, "MASTER_PORT": " "}, "not MASTER_PORT"),
        ({**TWO, "MASTER_PORT": "65536"}, "MASTER_PORT='65536'"),
        ({**TWO, "RANK": "2"}, "RANK='2' in the environment must be a whole number from 0 to 1"),
        ({**TWO, "RANK": "abc"}, "RANK='abc'"),
        ({**TWO, "RANK": "1.0"}, "RANK='1.0'"),
        ({**TWO, "RANK": "²"}, "RANK='²'"),
        ({**TWO, "RANK": "-1"}, "RANK='-1'"),
        ({**TWO, "LOCAL_RANK": ""}, "LOCAL_RANK=''"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "WORLD_SIZE='0'"),
        ({"RANK": "0", "WORLD_SIZE": "-1"}, "WORLD_SIZE='-1'"),
        ({"RANK": "0", "WORLD_SIZE": "9" * 40}, "WORLD_SIZE='999"),
        ({"SVGBENCH_RANK_TIMEOUT_MINUTES": "abc"}, "SVGBENCH_RANK_TIMEOUT_MINUTES='abc'"),
        ({"SVGBENCH_RANK_TIMEOUT_MINUTES": "nan"}, "SVGBENCH_RANK_TIMEOUT_MINUTES='nan'"),
        ({"SVGBENCH_RANK_TIMEOUT_MINUTES": "0"}, "SVGBENCH_RANK_TIMEOUT_MINUTES='0'"),
        ({"SVGBENCH_RANK_TIMEOUT_MINUTES": "-5"}, "SVGBENCH_RANK_TIMEOUT_MINUTES='-5'"),
        ({"SVGBENCH_RANK_TIMEOUT_MINUTES": "1e9"}, "SVGBENCH_RANK_TIMEOUT_MINUTES='1e9'"),
    ],
)
def test_half_an_environment_of_torchrun_is_refused_before_anything_runs(tmp_path, monkeypatch, alone, environ, said):
    for name, value in environ.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    done = svgbench("run", "--encoder", "dinov3", "--out", str(tmp_path / "runs"))
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_whole_environment_of_torchrun_or_of_one_process_or_of_slurm_is_taken(monkeypatch, alone):
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert ranks() == Ranks(0, 1, 0)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, {"RANK": "0", "WORLD_SIZE": "1"}[name])
    check_environment()
    for name, value in TWO.items():
        monkeypatch.setenv(name, value)
    check_environment()
    assert ranks() == Ranks(1, 2, 1)
    monkeypatch.setenv("SVGBENCH_RANK_TIMEOUT_MINUTES", "0.5")
    assert timeout_minutes() == 0.5


BILLION = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"set: {a: 1}\n" + b"# padding\n" * 110_000, "has 1.1 MB, and YAML files of at most 0.5 MB are read"),
        (b"a: " + b"[" * 5000 + b"]" * 5000, f"1:{DEEPEST + 3}: lists and mappings are nested deeper than {DEEPEST}"),
        (b"a:\n" + b"".join(b" " * n + b"- \n" for n in range(1, 300)), "nested deeper"),
        (b"{" * 400_000, "nested deeper"),
        (b"a: [1" + b",[1" * 150_000, "nested deeper"),
        (BILLION.encode(), "2:8: aliases are not allowed here"),
        (b"base: &x smoke\nrun: *x\n", "2:6: aliases"),
        (b"run: 2001-99-99\n", "1:6: a value cannot be read"),
        (b"run: !!float word\n", "1:6: a value cannot be read"),
        (b"run: !!timestamp word\n", "1:6: a value cannot be read"),
        (b"set: {seed: " + b"9" * 5000 + b"}\n", "1:13: a value cannot be read"),
        (b"? [a, b]\n: c\n", "1:3: a key must be a word or a number"),
        (b"? {a: b}\n: c\n", "1:3: a key must be a word or a number"),
        (b"run: !!python/object/apply:os.system [id]\n", "1:6: could not determine a constructor"),
        (b"run: a\x01b\n", "control characters are not allowed"),
        (b"run: \xff\n", "byte 5 is not UTF-8"),
        (b"run: a\nrun: b\n", "2:1: the key 'run' is repeated"),
        (b"--- a\n--- b\n", "2:1: but found another document"),
        (b"\tset: 1\n", "1:1: "),
    ],
)
def test_yaml_that_is_endless_deep_or_none_is_one_sentence_within_a_second(tmp_path, text, said):
    import time

    path = tmp_path / "mine.yaml"
    path.write_bytes(text)
    began = time.monotonic()
    done = svgbench("plan", str(path))
    assert done.returncode == 2 and said in done.stderr and "mine.yaml" in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1 and "fault of svgbench" not in done.stderr
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("reader", ["encoders", "ablations", "layout", "run", "config"])
def test_every_reader_of_yaml_has_these_bounds(tmp_path, reader):
    deep, shelf = "a: " + "[" * 2000 + "]" * 2000, tmp_path / "shelf"
    place = {"encoders": shelf / "encoders/mine.yaml", "ablations": shelf / "ablations/mine.yaml", "layout": tmp_path / "table-mine.yaml",
             "run": tmp_path / "runs/r/config.yaml", "config": tmp_path / "own.yaml"}[reader]  # fmt: skip
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(deep)
    if reader == "run":
        from svgbench.tables.collect import RunRecord

        with pytest.raises(SvgbenchError, match=r"nested deeper.*run the command that made the run"):
            RunRecord("r", place.parent, {}, []).config()
        return
    words = {
        "encoders": ["encoders", "show", "mine", "--shelf", str(shelf)],
        "ablations": ["plan", "mine", "--shelf", str(shelf)],
        "layout": ["report", "--out", str(tmp_path), "--layout", str(place)],
        "config": ["import", "svg-autoencoder", str(place), "--name", "x", "--config", str(place), "--out", str(tmp_path / "r")],
    }
    done = svgbench(*words[reader])
    assert done.returncode == 2 and "fault of svgbench" not in done.stderr, done.stderr
    assert "nested deeper" in done.stderr or reader == "config"


def test_a_file_of_the_longest_length_is_read_in_seconds_and_what_is_no_file_is_refused(tmp_path):
    import time

    path, line = tmp_path / "long.yaml", "  a{}: [1, 2.5, word, {{b: c}}]\n"
    lines = ["set:\n", *(line.format(n) for n in range(13_000))]
    path.write_text("".join(lines))
    assert LONGEST * 0.75 < path.stat().st_size < LONGEST
    began = time.monotonic()
    assert len(read_yaml(path)["set"]) == 13_000 and time.monotonic() - began < 10
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "folder.yaml").mkdir()
    for name in ("fifo.yaml", "folder.yaml"):
        with pytest.raises(BadInput, match="is not a regular file"):
            read_yaml(tmp_path / name)


@pytest.mark.parametrize(
    "word", ["a=" + "[" * 3000, "a." * 3000 + "b=1", "a=&x [1]", "seed=2001-99-99", "seed=" + "9" * 5000, "a={[1]: 2}"]
)
def test_set_has_the_same_bounds(word):
    done = svgbench("plan", "smoke", "--set", word)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "fault of svgbench" not in done.stderr, done.stderr
    assert len(done.stderr) < 6000


def test_a_clock_that_jumps_back_an_hour_orders_nothing(tmp_path):
    """Files that seem to be of the future are read as they are, and again when they change."""
    from svgbench.shelf import entries

    place = tmp_path / "ablations"
    place.mkdir()
    (place / "one.yaml").write_text("run: one\n")
    ahead = (place.stat().st_mtime_ns + 3600 * 10**9,) * 2
    os.utime(place, ns=ahead)
    assert "two" not in entries("ablations", tmp_path)
    (place / "two.yaml").write_text("run: two\n")
    os.utime(place, ns=ahead)
    assert "two" in entries("ablations", tmp_path) and read_yaml(place / "two.yaml") == {"run": "two"}
    (place / "two.yaml").write_text("run: three\n")
    os.utime(place / "two.yaml", ns=(1, 1))
    assert read_yaml(place / "two.yaml") == {"run": "three"}
    with pytest.raises(BadConfig, match="holds str"):
        (place / "three.yaml").write_text("word\n")
        read_yaml(place / "three.yaml")
