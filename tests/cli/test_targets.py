"""Where a command may write and what a run may be called: files alone are written, and a name is a name."""

from __future__ import annotations

import errno
import fcntl
import importlib
import os
import sys

import pytest
from fake_runs import gfid, write, write_samples
from finished import finish, planned
from PIL import Image
from toys import in_child

from svgbench.cli.main import main
from svgbench.config.build import build
from svgbench.config.names import checked_name, run_name
from svgbench.errors import BadInput, BrokenArtifact, Occupied
from svgbench.lab.configs import configs_of
from svgbench.lab.diagnosis import diagnosis_plan
from svgbench.tables.collect import RunRecord, collect
from svgbench.tables.figures.sources import TokenizerRuns


def call(capsys, *words: object) -> tuple[int, str]:
    """Exit status and standard error of a command."""
    with pytest.raises(SystemExit) as exit_:
        main([str(word) for word in words])
    return exit_.value.code, capsys.readouterr().err


@pytest.fixture
def out(tmp_path):
    """A run with samples."""
    write(tmp_path / "runs" / "a", [gfid("a", 5.0)])
    write_samples(tmp_path / "runs", "a", 5, 1.0)
    return tmp_path / "runs"


def state(path) -> tuple[int, int]:
    """Which thing has a name."""
    found = os.lstat(path)
    return found.st_ino, found.st_mode


def place(tmp_path, kind: str, suffix: str):
    path, thing = tmp_path / f"target{suffix}", tmp_path / "thing"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to a pipe":
        os.mkfifo(thing)
        path.symlink_to(thing)
    elif kind == "link to a device":
        path.symlink_to("/dev/null")
    return path


WRITERS = [["report"], ["report", "a", "--format", "json"], ["report", "--format", "html"], ["sample", "a", "--steps", "5"]]


@pytest.mark.parametrize("kind", ["directory", "pipe", "link to a pipe", "link to a device"])
@pytest.mark.parametrize("command", WRITERS)
def test_no_command_replaces_what_is_not_a_file(out, tmp_path, capsys, command, kind):
    path = place(tmp_path, kind, ".npz" if command[0] == "sample" else ".md")
    before = state(path)
    status, err = call(capsys, *command, "--out", out, "--to", path)
    what = {"directory": "directory", "link to a device": "device"}.get(kind, "named pipe")
    assert status == 2 and f"{path} is a {what}, not a file" in err and len(err.strip().splitlines()) == 1
    assert state(path) == before


def test_standard_output_is_what_comes_without_a_target(out, capsys):
    for target in ("/dev/stdout", "/dev/null", "/proc/self/fd/1"):
        status, err = call(capsys, "report", "--out", out, "--to", target)
        assert status == 2 and f"{target} is a device" in err and "leave out --to" in err
    assert not os.path.isfile("/dev/null")


@pytest.mark.parametrize("kind", ["file", "pipe", "link to a device"])
@pytest.mark.parametrize("command", ["run", "ablate smoke", "plan smoke", "report", "figures", "sample a --to x.png", "doctor", "pretrain"])
def test_runs_are_kept_in_a_directory(tmp_path, capsys, command, kind):
    path = place(tmp_path, kind, "")
    if kind == "file":
        path.write_text("kept")
    before = state(path)
    status, err = call(capsys, *command.split(), *(["mae"] if command == "pretrain" else []), "--out", path)
    assert (status, err) == (2, f"BadInput: --out {path} is not a directory; give a directory, or a new name.\n")
    assert state(path) == before


@pytest.mark.parametrize("command", [["data", "pack", "in"], ["figures"]])
def test_no_directory_is_made_where_something_else_is(out, tmp_path, capsys, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "class").mkdir(parents=True)
    for kind in ("pipe", "link to a device"):
        path = place(tmp_path, kind, f"-{kind[0]}")
        before = state(path)
        status, err = call(capsys, *command, *(["--out", out] if command == ["figures"] else []), "--to", path)
        assert status == 2 and "is not a directory" in err and state(path) == before


WRONG = [
    "", " ", ".", "..", "...", "../../x", "a/b", "/absolute", "a\\b", ".hidden", "-x", "store", "Store", "plans", "slurm", "figures",
    "a\nb", "a\x1b[2Jb", "a\tb", "\u202ea", "a\u200bb", "x ", " x", "\ud800", "a" * 256, "ä" * 128,
]  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_name_is_refused_wherever_a_run_is_named(out, tmp_path, capsys, name):
    with pytest.raises(BadInput) as caught:
        checked_name(name)
    assert len(str(caught.value)) < 250 and str(caught.value).isprintable()
    (tmp_path / "weights.pt").write_bytes(b"x")
    before = sorted(tmp_path.rglob("*"))
    status, err = call(capsys, "import", "sit", tmp_path / "weights.pt", f"--name={name}", "--out", out)
    assert status == 2 and err.startswith("BadInput: --name") and len(err.strip().splitlines()) == 1
    with pytest.raises(BadInput, match="the name of a run"):
        collect(out, [name])
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["dinov3-tiny.no-align.weak-share-0.5.seed-1", "Größe 2", "日本語", "a" * 255, "stores", "x..y", "2024"])
def test_names_stay_free_otherwise(name):
    assert checked_name(name) == name


def test_names_that_settings_and_grids_make_are_names(tmp_path):
    for path in ("../../../etc/passwd", "/" * 300, "w" * 400, "a\nb"):
        config = build({"scores": {"extractor_weights": path}, "latents": {"statistics": path}}, preset="tiny")
        name = run_name(config)
        assert checked_name(name) == name and len(name) < 60
    grid = tmp_path / "grid.yaml"
    wrong = [("store", "", "is reserved for"), ("../../x", "", "starts with a dot"), ("x", "c" * 300, "has 302 bytes")]
    for run, cell, sentence in wrong:
        axes = f"axes:\n  way:\n    {cell}: {{seed: 1}}\n" if cell else ""
        grid.write_text(f"run: {run}\n{axes}")
        with pytest.raises(BadInput, match=sentence) as caught:
            configs_of(str(grid), "tiny", None, None, resolved=False)
        assert str(grid) in str(caught.value) and caught.value.exit_status == 2


def test_an_encoder_of_a_long_name_is_a_sentence(tmp_path, capsys):
    for word in ("v" * 300, "../" * 100):
        status, err = call(capsys, "run", "--encoder", word, "--out", tmp_path / "runs")
        assert status == 2 and len(err.strip().splitlines()) == 1 and "fault of svgbench" not in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("number", ["ENOSYS", "ENOLCK", "EOPNOTSUPP", "EINVAL"])
def test_packing_on_a_file_system_without_locks_is_a_sentence_about_it(tmp_path, capsys, monkeypatch, number):
    def refuse(*_):
        raise OSError(getattr(errno, number), os.strerror(getattr(errno, number)))

    monkeypatch.setattr(fcntl, "flock", refuse)
    for shade in range(4):
        path = tmp_path / "in" / f"class{shade % 2}" / f"{shade}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (60 * shade, 0, 0)).save(path)
    status, err = call(capsys, "data", "pack", tmp_path / "in", "--to", tmp_path / "packed", "--resolution", 32)
    assert status == 5 and "cannot lock files" in err and len(err.strip().splitlines()) == 1


def test_without_file_locks_the_command_says_which_systems_it_needs(capfd):
    def imported():
        for name in [name for name in sys.modules if name.startswith("svgbench.cli")]:
            del sys.modules[name]
        sys.modules["fcntl"] = None
        try:
            importlib.import_module("svgbench.cli.main")
        except SystemExit as ended:
            raise Occupied if ended.code == 2 else BadInput from None

    assert in_child(imported) == Occupied.exit_status


@pytest.mark.parametrize("read", ["samples", "reconstructions", "embedding", "images"])
def test_figures_are_drawn_of_what_was_committed_alone(tmp_path, read):
    """A byte of an artifact changed, its size kept: no figure reads it."""
    made = planned(tmp_path)
    store = finish(made, tmp_path / "runs")
    run = made.runs[0]
    stages = [{"stage": made.nodes[key].stage, "key": key, "cell": made.nodes[key].cell} for key in run.nodes]
    diagnoses = diagnosis_plan({run.name: (run.config, stages)}, store)
    finish(diagnoses, tmp_path / "runs", keys=list(diagnoses.runs[0].nodes))
    keys = {diagnoses.nodes[key].stage: key for key in diagnoses.runs[0].nodes}
    record = RunRecord(run.name, tmp_path, {"stages": stages}, [])
    one = TokenizerRuns(run.name, run.config, (record,), store, diagnoses=keys)
    stage, key = next((node.stage, key) for key, node in {**made.nodes, **diagnoses.nodes}.items()
                      if node.stage == read and key in (*run.nodes, *keys.values()))  # fmt: skip
    path = next(path for path in sorted(store.place(stage, key).iterdir()) if path.name != "manifest.json")
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    asked = {"samples": lambda: one.samples(2, 1.0), "reconstructions": one.reconstructions, "images": one.classes}
    with pytest.raises(BrokenArtifact, match=rf"{path}: its bytes are not those the manifest lists"):
        asked.get(read, lambda: one.read("embedding"))()


def test_the_page_shows_samples_as_they_were_committed_alone(out, capsys):
    path = next(out.glob("store/samples/*/samples.npy"))
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    status, err = call(capsys, "report", "--out", out, "--format", "html")
    assert status == 2 and f"{path}: its bytes are not those the manifest lists" in err
