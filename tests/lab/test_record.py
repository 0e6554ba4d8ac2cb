"""What a report prints is what was recorded: every damage to a record is noticed, and the command that made the run mends it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal

import pytest
from finished import finish, planned
from toys import in_child

from svgbench.config.records import RUN_FORMAT, unseal
from svgbench.errors import BrokenArtifact, SvgbenchError
from svgbench.lab.record import record
from svgbench.lab.schedule import Outcome
from svgbench.tables import collect as collecting
from svgbench.tables.collect import collect, without_digests

FILES = ["run.json", "scores.json", "config.yaml", "overview.png"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run, recorded; where, its plan, and its bytes."""
    folder = tmp_path_factory.mktemp("whole")
    plan, out = planned(folder), folder / "runs"
    finish(plan, out)
    for run in plan.runs:
        record(plan, run, out, Outcome())
    return out, plan, contents(out / plan.runs[0].name)


@pytest.fixture
def copy(whole, tmp_path, monkeypatch):
    """The same, to be damaged."""
    monkeypatch.setattr(collecting, "LOOK_SECONDS", 0.0)
    shutil.copytree(whole[0], tmp_path / "runs")
    return tmp_path / "runs", whole[1], whole[2]


def contents(place):
    return {path.name: path.read_bytes() for path in place.iterdir()}


def damages(raw: bytes):
    """Cuts, single bits, and digits and letters in place of others: the size stays."""
    for length in (0, 1, len(raw) // 2, len(raw) * 99 // 100, len(raw) - 1):
        yield raw[:length]
    step = max(1, len(raw) // 64)
    for place in range(0, len(raw), step):
        yield raw[:place] + bytes([raw[place] ^ 1 << place % 8]) + raw[place + 1 :]
    digits = [place for place, byte in enumerate(raw) if chr(byte).isdigit()]
    for place in digits[:: max(1, len(digits) // 64)]:
        yield raw[:place] + str((int(chr(raw[place])) + 1) % 10).encode() + raw[place + 1 :]
    yield raw + b"\n"


@pytest.mark.parametrize("name", FILES)
def test_every_damage_to_a_record_is_noticed_and_the_same_command_mends_it(copy, name):
    out, plan, before = copy
    path = out / plan.runs[0].name / name
    tried, noticed = 0, 0
    for damaged in damages(before[name]):
        path.write_bytes(damaged)
        tried += 1
        try:
            collect(out)
        except BrokenArtifact as error:
            noticed += path.name in str(error) or "run.json" in str(error)
            assert "run the command that made the run" in str(error) and error.exit_status == 2
    assert noticed == tried > 60
    for damaged in (*list(damages(before[name]))[::17], None):
        path.unlink() if damaged is None else path.write_bytes(damaged)
        record(plan, plan.runs[0], out, Outcome())
        assert contents(path.parent) == before
    assert len(collect(out)) == 2


def test_a_record_without_its_digests_or_its_format_is_no_older_record(copy):
    out, plan, before = copy
    path = out / plan.runs[0].name / "run.json"
    lost = {b'"digest"': b'"digesu"', b'"format": 2': b'"format": 1', b'"format"': b'"formau"', b'"files"': b'"filet"'}
    for found, other in lost.items():
        assert before["run.json"].count(found) == 1
        path.write_bytes(before["run.json"].replace(found, other))
        with pytest.raises(BrokenArtifact, match="is damaged or cannot be read"):
            collect(out)
    path.write_bytes(before["run.json"].replace(b'"format": 2', b'"format": 7'))
    with pytest.raises(BrokenArtifact, match="newer svgbench"):
        collect(out)


def test_a_record_of_an_earlier_version_is_read_and_said_and_recorded_again(copy):
    out, plan, before = copy
    path = out / plan.runs[0].name / "run.json"
    about = {name: value for name, value in unseal(before["run.json"], RUN_FORMAT).items() if name not in ("format", "files")}
    about["stages"] = [{name: value for name, value in stage.items() if name != "manifest"} for stage in about["stages"]]
    path.write_text(json.dumps(about, indent=1))
    records = collect(out)
    assert [one.has_digests for one in records] == [False, True]
    assert without_digests(records).startswith(
        f"written by an earlier version, without digests to check their numbers by: {records[0].name}; run"
    )
    record(plan, plan.runs[0], out, Outcome())
    assert contents(path.parent) == before and without_digests(collect(out)) is None


def test_a_changed_manifest_behind_a_record_is_noticed(copy):
    out, plan, _ = copy
    key = plan.runs[0].nodes[-1]
    path = out / "store" / plan.nodes[key].stage / key[:32] / "manifest.json"
    raw = path.read_bytes()
    other = [raw.replace(b'"seconds": 1.0', b'"seconds": 9.0'), raw.replace(b'"images_seen": 64', b'"images_seen": 65')]
    for changed in (*other, raw[:-1], b""):
        assert changed != raw
        path.write_bytes(changed)
        with pytest.raises(BrokenArtifact, match=rf"{path}: is not the manifest.*remove the directory {path.parent}"):
            collect(out)
    path.unlink()
    with pytest.raises(BrokenArtifact, match=rf"{path}: is missing; remove the directory"):
        collect(out)
    shutil.rmtree(path.parent)  # as the sentence says; what is recorded still holds
    assert len(collect(out)) == 2


def test_an_artifact_made_again_leaves_the_records_of_other_runs_readable_and_its_own_is_written_again(copy):
    out, plan, before = copy
    key = plan.runs[0].nodes[0]  # of both runs
    place = out / "store" / plan.nodes[key].stage / key[:32]
    shutil.rmtree(place)
    finish(plan, out, seconds=2.0, keys=[key])
    assert len(collect(out)) == 2
    record(plan, plan.runs[0], out, Outcome())
    assert contents(out / plan.runs[0].name)["run.json"] != before["run.json"]
    first = collect(out)[0]
    assert first.about["stages"][0]["seconds"] == 2.0 and first.scores == json.loads(before["scores.json"])


def test_an_older_manifest_changed_behind_a_record_is_noticed_by_the_record(copy):
    """A manifest of format 1 holds no digest; the record made from it does."""
    out, plan, _ = copy
    key = plan.runs[0].nodes[-1]
    path = out / "store" / plan.nodes[key].stage / key[:32] / "manifest.json"
    content = {name: value for name, value in json.loads(path.read_bytes()).items() if name != "digest"} | {"format": 1}
    path.write_text(json.dumps(content))
    record(plan, plan.runs[0], out, Outcome())
    record(plan, plan.runs[1], out, Outcome())
    assert len(collect(out)) == 2
    path.write_text(json.dumps(content | {"seconds": 7.0}))
    with pytest.raises(BrokenArtifact, match="was changed after it was written"):
        collect(out)


def test_a_picture_or_scores_changed_in_the_store_are_not_copied_into_a_record(copy):
    out, plan, _ = copy
    stages = {plan.nodes[key].stage: key for key in plan.runs[0].nodes}
    for stage, name in (("overview", "overview.png"), ("reconstruction-scores", "scores.json")):
        path = out / "store" / stage / stages[stage][:32] / name
        raw = path.read_bytes()
        path.write_bytes(raw[:-2] + bytes([raw[-2] ^ 1]) + raw[-1:])
        (out / plan.runs[0].name / "run.json").unlink()
        with pytest.raises(BrokenArtifact, match=rf"{path}: its bytes are not those the manifest lists; remove the directory"):
            record(plan, plan.runs[0], out, Outcome())
        path.write_bytes(raw)
        record(plan, plan.runs[0], out, Outcome())


POINTS = ["lock.taken", "record.written", "record.written:2", "record.written:3"]
POINTS += [f"file.{when}:{number}" for when in ("before_rename", "renamed") for number in (1, 2, 3, 4)]


@pytest.mark.parametrize("point", POINTS)
def test_a_record_killed_anywhere_is_the_old_or_the_new_one_or_said_to_be_neither(copy, point):
    out, plan, before = copy
    place = out / plan.runs[0].name
    failed = Outcome(failed={plan.runs[0].nodes[-1]: SvgbenchError("of a test")})
    assert in_child(lambda: record(plan, plan.runs[0], out, failed), failpoint=point) == -signal.SIGKILL
    with contextlib.suppress(BrokenArtifact):
        assert list(collect(out, [place.name])[0].about["failures"].values()) in ([], ["of a test"])
    record(plan, plan.runs[0], out, Outcome())
    assert contents(place).keys() == {*before, *(["record.lock"] if (place / "record.lock").exists() else [])}
    assert {name: raw for name, raw in contents(place).items() if name in before} == before


def test_a_mix_of_two_writers_is_no_record_and_a_writer_in_between_is_waited_for(whole, tmp_path, monkeypatch):
    out, plan, before = whole
    place = tmp_path / "runs" / "mixed"
    place.mkdir(parents=True)
    other = contents(out / plan.runs[1].name)
    for name, raw in {**before, "scores.json": other["scores.json"]}.items():
        (place / name).write_bytes(raw)
    with pytest.raises(BrokenArtifact, match=r"scores\.json: its bytes are not those that run\.json lists"):
        collect(tmp_path / "runs")
    monkeypatch.setattr(collecting.time, "sleep", lambda seconds: (place / "scores.json").write_bytes(before["scores.json"]))
    assert len(collect(tmp_path / "runs")) == 1


def test_records_written_by_many_at_once_are_whole_at_every_moment(copy, monkeypatch):
    """Three writers, each with a failure of its own to tell, over and over, and a reader: no mix is ever printed."""
    monkeypatch.setattr(collecting, "WRITING_SECONDS", 2.0)
    out, plan, _ = copy
    run = plan.runs[0]
    children = []
    for number in range(3):
        outcome = Outcome(failed={run.nodes[-1]: SvgbenchError(f"of {number}")})
        if (child := os.fork()) == 0:
            os._exit(in_child(lambda outcome=outcome: [record(plan, run, out, outcome) for _ in range(6)]) & 0xFF)
        children.append(child)
    seen = set()
    while children:
        seen.add(*collect(out, [run.name])[0].about["failures"].values() or ["none"])
        ended, status = os.waitpid(-1, os.WNOHANG)
        if ended:
            children.remove(ended)
            assert os.waitstatus_to_exitcode(status) == 0
    assert seen <= {"none", "of 0", "of 1", "of 2"} and len(seen) > 1


def test_a_replaced_alignment_is_in_every_row_and_later_stages_take_what_replaced_an_artifact(tmp_path):
    from svgbench.api.runs import LoadedRun
    from svgbench.lab.diagnosis import recorded

    text = "base: smoke\nset: {latents.align: none, latents.standardise: scalar, sampling.steps: [2], sampling.guidance: [1.0]}\n"
    plan, out = planned(tmp_path, text), tmp_path / "runs"
    finish(plan, out)
    (run,) = plan.runs
    record(plan, run, out, Outcome())
    (found,) = collect(out)
    assert {row["align"] for row in found.scores} == {"frozen, then none"}
    stages = found.about["stages"]
    assert [recorded(stages)[name].stage for name in ("autoencoder", "statistics")] == ["realignment", "standardisation"]
    assert recorded(stages, ("autoencoder",))["autoencoder"].stage == "autoencoder"
    loaded = LoadedRun(out, run.name)
    assert [loaded._keys[name][0] for name in ("autoencoder", "statistics")] == ["realignment", "standardisation"]
