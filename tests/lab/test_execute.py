"""Nothing is committed that a stage did not leave whole, or that was made from other files than its key says."""

from __future__ import annotations

import io
import os
import shutil

import numpy as np
import pytest
from finished import fill, finish, planned

from svgbench.config import cards, file_state
from svgbench.config.build import build
from svgbench.errors import BadInput, SvgbenchError
from svgbench.lab import execute
from svgbench.lab.execute import Executor
from svgbench.lab.plan import Node, Plan, make_plan, resolve
from svgbench.lab.run_plan import run_plan
from svgbench.lab.store import Store
from svgbench.lab.worker import Bench
from svgbench.machine.runtime import Runtime
from svgbench.stages import graph

CHECKPOINT = "checkpoints/000000000064/state.json"


def executor(plan: Plan, out, monkeypatch, work):
    """One whose stages do ``work(node's slice, out)``."""

    def worker(stage):
        def run(slice_, inputs, place, runtime):
            (place / CHECKPOINT).parent.mkdir(parents=True, exist_ok=True)
            (place / CHECKPOINT).write_text("{}")
            work(place)
            return {}

        return run

    monkeypatch.setattr(execute.graph, "worker", worker)
    return Executor(plan.nodes, Store(out / "store"), Runtime(device="cpu", quiet=True), lambda sentence: None)


def alone(node: Node) -> Node:
    """The node as one without inputs."""
    return Node(node.stage, node.key, node.slice, node.identity, {}, node.cell)


def test_every_stage_says_what_it_must_leave():
    assert graph.LEAVES.keys() == {stage.name for stage in (*graph.STAGES, *graph.DIAGNOSES)}
    assert all(names and "manifest.json" not in names for names in graph.LEAVES.values())
    config = build({"diffusion": {"snapshots": [0.25, 0.5], "weak_share": 0.1}}, preset="tiny").model_dump(mode="json")
    wanted = ["sit.safetensors", "sit.json", "sit-0.25.safetensors", "sit-0.5.safetensors", "weak.safetensors"]
    assert graph.left("diffusion", config) == wanted


@pytest.mark.parametrize("how", ["nothing", "one missing", "one empty"])
@pytest.mark.parametrize("stage", ["autoencoder", "diffusion", "samples", "generation-scores", "overview", "images"])
def test_an_artifact_without_what_its_stage_must_leave_is_not_committed_and_its_checkpoints_stay(tmp_path, monkeypatch, stage, how):
    plan = planned(tmp_path)
    node = alone(next(node for node in plan.nodes.values() if node.stage == stage))
    plan = Plan({node.key: node}, ())

    def work(place):
        if how != "nothing":
            fill(node, place)
            lost = place / graph.left(stage, node.slice)[-1]
            lost.unlink() if how == "one missing" else lost.write_bytes(b"")

    out = tmp_path / "runs"
    words = f"stage {stage} left {'an empty' if how == 'one empty' else 'no'} .*so nothing was stored"
    with pytest.raises(SvgbenchError, match=words):
        executor(plan, out, monkeypatch, work).run(node.key)
    store = Store(out / "store")
    assert store.manifest(stage, node.key) is None
    assert (store.place(stage, node.key).with_suffix(".partial") / CHECKPOINT).is_file()
    assert executor(plan, out, monkeypatch, lambda place: fill(node, place)).run(node.key)
    assert [path.name for path in store.place(stage, node.key).parent.iterdir()] == [node.key[:32]]
    assert not (store.place(stage, node.key) / "checkpoints").exists()


@pytest.mark.parametrize("rank", ["1", "3"])
def test_a_rank_without_its_world_trains_nothing(tmp_path, monkeypatch, rank):
    plan = planned(tmp_path)
    node = alone(next(node for node in plan.nodes.values() if node.stage == "autoencoder"))
    monkeypatch.setenv("RANK", rank)
    made = executor(Plan({node.key: node}, ()), tmp_path / "runs", monkeypatch, lambda place: pytest.fail("trained"))
    with pytest.raises(BadInput, match="has RANK but not WORLD_SIZE"):
        made.run(node.key)
    assert not (tmp_path / "runs").exists()


def put(path, content: bytes, like: os.stat_result | None = None) -> None:
    """A file; with the times of another one, as ``cp --preserve`` leaves it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name("new")
    new.write_bytes(content)
    if like is not None:
        os.utime(new, ns=(like.st_atime_ns, like.st_mtime_ns))
    os.replace(new, path)


CASES = {
    "encoder.weights": ("autoencoder", {}),
    "scores.extractor_weights": ("references", {}),
    "scores.lpips_weights": ("reconstruction-scores", {"scores": {"perceptual": "lpips"}}),
    "autoencoder.loss.weights": ("autoencoder", {}),
    "diffusion.representation.encoder.weights": ("diffusion", {"diffusion": {"representation": {"weight": 0.5}}}),
    "diffusion.release.file": ("imported-diffusion", {"diffusion": {"release": {"kind": "sit"}}}),
    "autoencoder.release.file": ("imported-autoencoder", {"autoencoder": {"release": {"kind": "rae-decoder"}}}),
    "latents.statistics": ("imported-statistics", {}),
    "scores.reference": ("references", {}),
}


def given(field: str, number: int) -> bytes:
    """Bytes of one size: of weights that nothing here opens, or of an ``.npz`` of images."""
    if field != "scores.reference":
        return f"weights {number}".encode()
    buffer = io.BytesIO()
    np.savez(buffer, arr_0=np.full((2, 8, 8, 3), number, np.uint8))
    return buffer.getvalue()


def node_of(field: str, file) -> Node:
    """The stage that opens a file that a field names, in a plan."""
    stage, settings = CASES[field]
    content: dict = {}
    part = content
    for name in field.split(".")[:-1]:
        part = part.setdefault(name, {})
    part[field.rsplit(".", 1)[-1]] = str(file)

    def joined(one, other):
        return {k: joined(one[k], other[k]) if k in one and k in other else (one | other)[k] for k in one | other}

    config = resolve(build(joined(settings, content), preset="tiny"), None)
    plan = make_plan({"run": config})
    return alone(next(node for node in plan.nodes.values() if node.stage == stage))


@pytest.mark.parametrize("when", ["before", "during", "gone"])
@pytest.mark.parametrize("field", list(CASES))
def test_a_file_replaced_after_it_was_planned_is_refused_and_nothing_is_committed(tmp_path, monkeypatch, field, when):
    """Of the same size and with the same time of change, as a copy with its times leaves it."""
    file = tmp_path / "given" / "file"
    first, other = given(field, 1), given(field, 2)
    put(file, first)
    node = node_of(field, file)
    state = file.stat()
    monkeypatch.setattr(file_state, "SETTLED", -1)  # digests are remembered as those of older files are

    def work(place):
        if when == "before":
            pytest.fail("it was opened")
        fill(node, place)
        file.unlink() if when == "gone" else put(file, other, state)

    if when == "before":
        put(file, other, state)
        assert (file.stat().st_size, file.stat().st_mtime_ns) == (state.st_size, state.st_mtime_ns)
    made = executor(Plan({node.key: node}, ()), tmp_path / "runs", monkeypatch, work)
    words = "cannot be read|does not exist" if when == "gone" else "changed after this run was planned"
    with pytest.raises(BadInput, match=words) as caught:
        made.run(node.key)
    assert str(file) in str(caught.value) and caught.value.exit_status == 2
    assert Store(tmp_path / "runs" / "store").manifest(node.stage, node.key) is None
    put(file, first, state)
    assert executor(Plan({node.key: node}, ()), tmp_path / "runs", monkeypatch, lambda place: fill(node, place)).run(node.key)


def test_a_card_s_own_weights_replaced_after_it_was_planned_are_refused(tmp_path, monkeypatch):
    """A card of a user's shelf names its file itself."""
    file = tmp_path / "own.safetensors"
    shelf = tmp_path / "shelf" / "encoders"
    shelf.mkdir(parents=True)
    text = cards.entries("encoders")["dinov3-tiny"].read_text()
    lines = [f"weights: {{file: {file}}}" if line.startswith("weights:") else line for line in text.splitlines()]
    (shelf / "own.yaml").write_text("\n".join(line for line in lines if not line.startswith(("name:", "  file:", "  sha256:"))) + "\n")
    put(file, b"first weights")
    config = resolve(build({"encoder": {"card": "own"}}, preset="tiny", extra=tmp_path / "shelf"), tmp_path / "shelf")
    plan = make_plan({"run": config}, tmp_path / "shelf")
    node = alone(next(node for node in plan.nodes.values() if node.stage == "autoencoder"))
    put(file, b"other weights", file.stat())
    with pytest.raises(BadInput, match=rf"{file}: changed after this run was planned \(encoder\.weights\)"):
        executor(Plan({node.key: node}, ()), tmp_path / "runs", monkeypatch, lambda place: fill(node, place)).run(node.key)


def test_a_finished_artifact_that_is_used_again_loses_what_a_killed_process_left_in_it(tmp_path, monkeypatch):
    plan = planned(tmp_path)
    key = next(key for key, node in plan.nodes.items() if node.stage == "autoencoder")
    store = finish(plan, tmp_path / "runs")
    place = store.place("autoencoder", key)
    (place / CHECKPOINT).parent.mkdir(parents=True)
    shutil.copytree(place, place.with_name(f".writing-99-removed-{place.name}"))
    assert not executor(plan, tmp_path / "runs", monkeypatch, lambda place: None).run(key)
    assert {len(path.name) for path in place.parent.iterdir()} == {32} and not (place / "checkpoints").exists()


def test_a_grid_that_is_finished_is_swept_by_the_same_command(tmp_path):
    """Nothing is executed: the plan alone looks at the artifacts."""
    plan, out = planned(tmp_path), tmp_path / "runs"
    store = finish(plan, out)
    run_plan(plan, out, Bench(out=str(out)), keep_going=True, shelf=None)
    before = sorted(path.relative_to(out) for path in out.rglob("*"))
    for node in plan.nodes.values():
        place = store.place(node.stage, node.key)
        (place / CHECKPOINT).parent.mkdir(parents=True)
        (place / ".writing-7-removed-checkpoints").mkdir()
        place.with_name(f".writing-7-removed-{place.name}").mkdir()
        (place.with_name(place.name + ".partial") / "checkpoints").mkdir(parents=True)
        for suffix in (".lock", ".progress"):
            place.with_name(place.name + suffix).write_text("")
    store.sweep([])  # nothing is used, nothing is swept
    assert len(list(out.rglob("*"))) > len(before) + 5 * len(plan.nodes)
    run_plan(plan, out, Bench(out=str(out)), keep_going=True, shelf=None)
    assert sorted(path.relative_to(out) for path in out.rglob("*")) == before
