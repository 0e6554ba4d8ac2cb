"""A plan whose weights are not all there is refused before its first stage runs."""

from __future__ import annotations

import pytest
from finished import finish

from svgbench.config.build import build
from svgbench.errors import BadWeights
from svgbench.lab import run_plan as running
from svgbench.lab.finished import Finished
from svgbench.lab.plan import Plan, make_plan, resolve
from svgbench.lab.preflight import check, slow_on_cpu
from svgbench.lab.run_plan import run_plan
from svgbench.lab.worker import Bench
from svgbench.stages import graph

TEACHER = {"diffusion": {"representation": {"weight": 0.5, "encoder": {"card": "dinov2-b14"}}}}
"""A card whose weights are on a server only."""


def plan_of(settings: dict) -> Plan:
    return make_plan({"run": resolve(build(settings, preset="tiny"), None)})


def test_a_repa_teacher_without_weights_is_refused_before_the_first_stage(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    out = tmp_path / "runs"
    with pytest.raises(BadWeights, match=r"'dinov2-b14'.*--set diffusion\.representation\.encoder\.weights=FILE"):
        run_plan(plan_of(TEACHER), out, Bench(out=str(out)), keep_going=True, shelf=None)
    assert not list(out.glob("store/*/*"))


def test_a_teacher_whose_loss_has_no_weight_needs_no_weights(tmp_path):
    unused = {"diffusion": {"representation": {"weight": 0.0, "encoder": {"card": "dinov2-b14"}}}}
    plan = plan_of(unused)
    check(plan, set(plan.nodes))


@pytest.mark.parametrize("field", ["scores.extractor_weights", "scores.second_extractor_weights", "scores.lpips_weights"])
def test_a_judge_whose_file_is_gone_is_refused(tmp_path, field):
    file = tmp_path / "judge.safetensors"
    file.write_bytes(b"weights")
    _, name = field.split(".")
    chosen = {"second_extractor_weights": {"second_extractor": "dinov2-vit-l-14"}, "lpips_weights": {"perceptual": "lpips"}}
    plan = plan_of({"scores": {**chosen.get(name, {}), name: str(file)}})
    check(plan, set(plan.nodes))
    file.unlink()
    with pytest.raises(BadWeights, match=f"{file} does not exist"):
        check(plan, set(plan.nodes))
    store = finish(plan, tmp_path / "runs")
    check(plan, set(plan.nodes) - Finished(plan, store).keys())


def test_lpips_in_the_loss_without_its_file_is_refused_with_its_field():
    plan = plan_of({"autoencoder": {"loss": {"network": "lpips"}}})
    with pytest.raises(BadWeights, match=r"'lpips' needs its weights file .*set autoencoder\.loss\.weights"):
        check(plan, set(plan.nodes))
    check(plan, {key for key, node in plan.nodes.items() if node.stage != "autoencoder"})


def test_every_weights_file_of_the_stage_table_is_among_those_looked_for():
    """A new stage that reads an encoder or a judge names it in the tables, or this fails."""
    known = {f"{path}.weights" for path in graph.ENCODERS} | {weights for *_, weights in graph.JUDGES}
    named = {path for path in graph.PATHS if path.endswith("weights")}
    named |= {path for stage in (*graph.STAGES, *graph.DIAGNOSES) for path in stage.slice if path.endswith("weights")}
    assert named <= known


def test_a_run_in_bf16_on_a_cpu_is_told_that_it_is_slow(tmp_path, capsys, monkeypatch):
    class Nothing:
        def __init__(self, *_, **__):
            pass

        def go(self):
            pass

    monkeypatch.setattr(running, "Walk", Nothing)
    small = {"encoder": {"precision": "bf16"}, "sampling": {"precision": "bf16"}, "diffusion": {"training": {"precision": "bf16"}}}
    unopened = {"representation": {"encoder": {"precision": "bf16"}}}
    plan, plain = plan_of(small), plan_of({"diffusion": unopened})
    fields = "diffusion.training.precision, encoder.precision, sampling.precision"
    for plan_, said in ((plan, f"this run has it in {fields}; "), (plain, "")):
        running.run_here(plan_, set(plan_.nodes), tmp_path, Bench(out=str(tmp_path), device="cpu"), running.Outcome())
        found = capsys.readouterr().err
        assert said in found and bool(said) == bool(found)
    samples = {key for key, node in plan.nodes.items() if node.stage == "samples"}
    assert "sampling.precision; 'svgbench bench'" in slow_on_cpu(plan, samples)
    assert "diffusion" not in slow_on_cpu(plan, samples)
