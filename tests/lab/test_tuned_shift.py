"""A sampling shift is chosen per tokenizer on samples of a seed that no table shows, and what it was is stated everywhere."""

from __future__ import annotations

import json

import pytest
from commands import svgbench
from finished import finish, planned

from svgbench.config.build import build
from svgbench.config.parse import override
from svgbench.config.sampling import SamplingProtocol, Tuning
from svgbench.errors import BadConfig, BadInput, SvgbenchError
from svgbench.lab.configs import configs_of
from svgbench.lab.contrasts import _scored
from svgbench.lab.forecast.estimate import estimates
from svgbench.lab.plan import make_plan, nodes_of, resolve
from svgbench.lab.record import record
from svgbench.lab.schedule import Outcome
from svgbench.machine.runtime import Runtime
from svgbench.stages.tuning import CHOICE, candidate, choose, chosen
from svgbench.tables.collect import collect

GRID = """base: smoke
run: t
set:
  data: {train_images: 32, val_images: 24}
  scores: {segmentation.enabled: false, probe.epochs: 1, resamples: 2}
  sampling: {count: 24, steps: [3], guidance: [1.0], shift: tuned, tuning: {count: 24}, zero_init: 1}
  encoder.card: sd-vae
axes:
  seed: [0, 1]
"""


def grid(folder, text=GRID):
    path = folder / "grid.yaml"
    path.write_text(text)
    return path


def config(*words):
    return resolve(build(override(words), preset="tiny"))


def scored(folder, **gfids):
    """Artifacts of scores, by the names of a choice's inputs."""
    places = {}
    for name, value in gfids.items():
        place = folder / name
        place.mkdir()
        rows = [{"metric": "kid", "value": 0.0}, {"metric": "gfid", "value": value, "low": value - 1, "high": value + 1, "count": 24}]
        (place / "scores.json").write_text(json.dumps(rows))
        places[candidate(float(name.replace("_", ".")))] = place
    return places


def chosen_of(folder, shifts, **gfids):
    out = folder / "out"
    out.mkdir()
    slice_ = {"sampling": {"tuning": Tuning(shifts=shifts).model_dump(mode="json")}}
    choose(slice_, scored(folder, **gfids), out, Runtime(device="cpu", quiet=True))
    return chosen(out)


def test_the_candidate_of_the_lowest_gfid_is_chosen_and_all_are_kept(tmp_path):
    made = chosen_of(tmp_path, (0.15, 0.4, 1.0), **{"0_15": 30.0, "0_4": 20.0, "1": 25.0})
    assert (made["shift"], made["edge"]) == (0.4, False)
    assert [(row["shift"], row["gfid"]) for row in made["candidates"]] == [(0.15, 30.0), (0.4, 20.0), (1.0, 25.0)]


def test_a_choice_at_the_edge_says_so_and_equal_candidates_give_the_first(tmp_path):
    made = chosen_of(tmp_path, (0.15, 0.4, 1.0), **{"0_15": 20.0, "0_4": 20.0, "1": 25.0})
    assert (made["shift"], made["edge"]) == (0.15, True)


def test_a_candidate_without_gfid_is_an_error_that_names_the_field(tmp_path):
    places = scored(tmp_path, **{"0_15": 1.0})
    (places[candidate(0.15)] / "scores.json").write_text("[]")
    slice_ = {"sampling": {"tuning": {"shifts": [0.15, 0.4]}}}
    with pytest.raises(SvgbenchError, match=r"has no gFID.*sampling\.shift"):
        choose(slice_, places, tmp_path, Runtime(device="cpu", quiet=True))


def test_tuning_is_nodes_of_the_tuning_seed_that_all_seeds_of_a_tokenizer_share():
    words = ("encoder.card=mae", "sampling.shift=tuned", "sampling.tuning.shifts=[0.15, 0.4]")
    plan = make_plan({f"{seed}": config(*words, f"seed={seed}") for seed in (0, 1)})
    first, second = plan.runs
    behind = [key for part in first.behind for key in part.nodes]
    assert [plan.nodes[key].stage for key in behind] == [
        "autoencoder", "statistics", "diffusion", "samples", "generation-scores", "samples", "generation-scores",
    ]  # fmt: skip
    assert behind == [key for part in second.behind for key in part.nodes]
    assert {plan.nodes[key].slice["seed"] for key in behind if "seed" in plan.nodes[key].slice} == {9001}
    choice = next(node for node in plan.nodes.values() if node.stage == "shift-choice")
    assert choice.inputs == {candidate(shift): key for shift, key in zip((0.15, 0.4), (behind[4], behind[6]), strict=True)}
    own = [plan.nodes[key] for key in first.nodes if key not in behind]
    drawn = [node for node in own if node.stage == "samples"]
    assert drawn and all(node.inputs["shift-choice"] == choice.key and node.cell["sampling.steps"] in (5, 10, 25) for node in drawn)


def test_the_samples_of_a_tuning_are_those_of_a_run_of_that_seed_with_the_number_given():
    tuned = config("encoder.card=mae", "sampling.shift=tuned", "sampling.tuning={shifts: [0.15, 0.4], count: 1000, seed: 7}")
    given = config("encoder.card=mae", "seed=7", "sampling.shift=0.4", "sampling.steps=[5]", "sampling.guidance=[1.0]")
    assert {n.key for n in nodes_of(given) if n.stage == "generation-scores"} <= {n.key for n in nodes_of(tuned)}


def test_a_tuning_that_nothing_asks_for_is_in_no_configuration_and_one_that_is_changes_samples_alone():
    plain = config("encoder.card=mae", "sampling.tuning.seed=5")
    assert "tuning" not in plain.model_dump()["sampling"]
    words = ("encoder.card=mae", "sampling.shift=tuned")
    five, six = (nodes_of(config(*words, f"sampling.tuning.seed={seed}")) for seed in (5, 6))
    changed = {node.stage for node in five if node.key not in {other.key for other in six}}
    assert {"shift-choice", "samples", "generation-scores"} <= changed and not changed & {"reconstructions", "probe-scores"}


@pytest.mark.parametrize(("axis", "seed"), [("seed: [0, 1]", 1), ("seed: [4]", 4)])
def test_a_tuning_seed_among_the_seeds_of_an_experiment_is_refused_with_its_line(tmp_path, axis, seed):
    path = grid(tmp_path, GRID.replace("seed: [0, 1]", axis).replace("tuning: {count: 24}", f"tuning: {{count: 24, seed: {seed}}}"))
    with pytest.raises(BadConfig, match=rf"grid\.yaml:6.*sampling\.tuning\.seed {seed} is among the seeds of the runs.*give another one"):
        configs_of(str(path), "tiny", None, None)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("sampling.shift=best",), r"sampling\.shift must be .*'tuned'"),
        (("sampling.shift=tuned", "sampling.tuning.shifts=[0.4]"), r"sampling\.tuning\.shifts must be a list of at least 2 entries"),
        (("sampling.shift=tuned", "sampling.tuning.shifts=[0.4, 0.4]"), "lists a candidate twice"),
        (("sampling.shift=tuned", "sampling.dimension_shift=true"), "exclude each other"),
        (("sampling.shift=tuned", "sampling.tuning.steps=2", "sampling.zero_init=2"), "zero_init"),
    ],
)
def test_a_tuning_that_cannot_be_meant_is_refused(words, sentence):
    with pytest.raises(BadConfig, match=sentence):
        build(override(words), preset="tiny")


def test_one_run_of_the_tuning_seed_is_refused_too():
    with pytest.raises(BadConfig, match="9001 is among the seeds"):
        make_plan({"a": config("seed=9001", "sampling.shift=tuned")})


def test_noise_prediction_has_no_shift_to_tune():
    made = build(override(["encoder.card=sd-vae", "diffusion.objective=ddpm", "sampling={sampler: ddpm, shift: tuned}"]), preset="tiny")
    assert made.sampling.shift == 1.0 and made.sampling.tuning is None


def test_a_protocol_names_the_number_and_how_it_was_tuned():
    settings = {
        "sampler": "euler",
        "steps": 5,
        "guidance": 1.0,
        "shift": "tuned",
        "schedule": "constant",
        "against": "null",
        "guided_channels": None,
    }
    made = SamplingProtocol.of(settings, {"shift": 0.4, "text": Tuning(shifts=(0.15, 0.4), count=24).text})
    assert made.text == "euler-shift0.4-tuned-of-0.15,0.4-by-24x5steps-seed9001-5steps-guidance1"
    assert made.how == "euler-shift-tuned-of-0.15,0.4-by-24x5steps-seed9001"
    with pytest.raises(BadInput, match="no finished stage shift-choice"):
        SamplingProtocol.of(settings)


def test_a_plan_with_a_tuning_counts_its_trainings():
    words = ("encoder.card=mae", "sampling.shift=tuned")
    plan = make_plan({"a": config(*words)})
    costs = estimates(plan).nodes
    trainings = [costs[key].flops for key, node in plan.nodes.items() if node.stage == "diffusion"]
    assert set(costs) == set(plan.nodes) and len(trainings) == 2 and trainings[0] == trainings[1] > 0


def test_what_tuning_needs_is_recorded_apart_and_its_failure_is_that_of_the_choice(tmp_path):
    plan = planned(tmp_path, GRID)
    run = plan.runs[0]
    lost = next(key for part in run.behind for key in part.nodes if plan.nodes[key].stage == "diffusion")
    finish(plan, tmp_path / "runs", keys=[key for key in plan.nodes if plan.nodes[key].stage != "overview"])
    record(plan, run, tmp_path / "runs", Outcome(failed={lost: SvgbenchError("of a test")}))
    made = collect(tmp_path / "runs", [run.name])[0]
    assert {stage["why"] for stage in made.behind} == {"tuning"}
    assert [stage["stage"] for stage in made.about["stages"]].count("diffusion") == 1
    assert made.about["failures"] == {"shift-choice": "diffusion: of a test"}


def test_a_contrast_is_declared_before_its_runs_where_only_their_tuning_is_done():
    plan = make_plan({"a": config("encoder.card=mae", "sampling.shift=tuned", "sampling.tuning.shifts=[0.15, 0.4]")})
    scored_ = {key for key, node in plan.nodes.items() if node.stage == "generation-scores"}
    tuning = {key for key in scored_ if plan.runs[0].reason(key) == "tuning"}
    assert len(tuning) == 2 and not _scored(plan, "a", "gfid", tuning)
    assert all(_scored(plan, "a", "gfid", {key}) for key in scored_ - tuning)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The grid, run by its command."""
    folder = tmp_path_factory.mktemp("tuned")
    done = svgbench("ablate", grid(folder, GRID.replace("[0, 1]", "[0]")), "--out", folder / "runs", "--threads", "1")
    assert done.returncode == 0, done.stderr
    return folder, done


def test_a_run_draws_at_the_chosen_shift_and_prints_it(ran):
    folder, done = ran
    made = chosen(next((folder / "runs" / "store" / "shift-choice").glob("*/" + CHOICE)).parent)
    lowest = min(made["candidates"], key=lambda row: row["gfid"])["shift"]
    assert made["shift"] == lowest and f"sampling shift tuned to {lowest:g}: gFID" in done.stderr
    protocols = {row["protocol"] for record_ in collect(folder / "runs") for row in record_.scores if row["metric"] == "gfid"}
    assert len(protocols) == 1 and f"euler-shift{lowest:g}-tuned-of-0.15,0.4-by-24x2steps-seed9001-zero1-3steps" in protocols.pop()
    assert f"sampling shift tuned (of-0.15,0.4-by-24x2steps-seed9001): t {lowest:g}" in done.stdout
    assert done.stdout.count("diffusion (to tune the shift)") == 1


def test_the_same_command_again_runs_nothing_and_sample_draws_at_the_chosen_shift(ran, tmp_path):
    folder, _ = ran
    again = svgbench("ablate", folder / "grid.yaml", "--out", folder / "runs", "--threads", "1")
    assert again.returncode == 0 and "sampling shift tuned to" not in again.stderr
    made = chosen(next((folder / "runs" / "store" / "shift-choice").glob("*/" + CHOICE)).parent)
    for name, words in (("tuned", ()), ("given", ("--shift", f"{made['shift']}"))):
        done = svgbench("sample", "t.seed-0", "--to", tmp_path / f"{name}.png", "--steps", "3", "--out", folder / "runs", *words)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "tuned.png").read_bytes() == (tmp_path / "given.png").read_bytes()
    one_step = ("sample", "t.seed-0", "--to", tmp_path / "one.png", "--steps", "1", "--out", folder / "runs")
    refused, done = svgbench(*one_step), svgbench(*one_step, "--zero-init", "0")
    assert (refused.returncode, done.returncode) == (2, 0) and "zero_init 1 must be at least 0 and below the 1 step" in refused.stderr
    svgbench("gc", "--out", folder / "runs", "--yes")
    assert {path.name for path in (folder / "runs" / "store").iterdir()} >= {"shift-choice", "diffusion", "generation-scores"}
    assert len(list((folder / "runs" / "store" / "diffusion").glob("*/manifest.json"))) == 2


@pytest.mark.parametrize("preset", ["tiny", "paper"])
def test_the_surface_is_of_the_trainings_of_few_step_and_its_candidates_are_those_of_the_tuning(preset):
    surface, few = (configs_of(name, preset, None, None, resolved=False).values() for name in ("shift-steps", "few-step"))
    trainings = {one.model_dump_json(include={"encoder", "autoencoder", "diffusion"}) for one in surface}
    assert len(trainings) == 3 and trainings <= {one.model_dump_json(include={"encoder", "autoencoder", "diffusion"}) for one in few}
    assert {one.sampling.shift for one in surface} == set(Tuning().shifts) and {one.seed for one in surface} == {0}
    assert all(one.sampling.shift == "tuned" and set(one.sampling.tuning.shifts) == set(Tuning().shifts) for one in few)
    assert {one.sampling.tuning.seed for one in few} == {9001}
