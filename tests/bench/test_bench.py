"""``svgbench bench`` on a CPU: each piece at the preset tiny does its stage's work; the command writes its file, and plans use it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from products import Products

from svgbench.bench import pieces
from svgbench.bench.measurement import measure
from svgbench.bench.pieces import STAGES, BenchSheet
from svgbench.bench.subject import Subject
from svgbench.cli.main import main
from svgbench.config.build import build
from svgbench.lab.forecast.memory import MEMORY
from svgbench.lab.forecast.sizes import Counts, counts_of, sizes_of
from svgbench.lab.measured import read_bench
from svgbench.machine.capture import WARM_UP
from svgbench.machine.measure import count_work, tf32_allowed
from svgbench.machine.runtime import Runtime
from svgbench.machine.signals import Stop
from svgbench.nets.chunks import whole_batches

torch.set_num_threads(1)
RUNTIME = Runtime(device="cpu", quiet=True)


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    config = build({}, preset="tiny")
    return Subject(config, sizes_of(config, counts_of(config)), RUNTIME, tmp_path_factory.mktemp("bench"), most=8)


def test_every_piece_of_a_run_does_the_work_that_it_is_said_to_do(subject):
    """Each call is made once and its operations are counted; kept latents and the judge's resizing cost none."""
    sheet = BenchSheet(subject, ("images", "encoding", "autoencoder", "diffusion", "samples"), batch=2)
    seen = set()
    for bout in sheet.bouts():
        for piece in bout.prepare():
            with whole_batches():
                counted = count_work(piece.call, 1)
            online = 2 * subject.sizes.encoding if "online" in piece.name else 0
            assert counted.model + counted.apart == pytest.approx((piece.flops or 0) + online, rel=0.02), piece.name
            seen.add((bout.stage, piece.name))
    assert seen == {
        ("images", "read from the packed store"), ("encoding", "encode images"),
        ("autoencoder", "forward: encode and decode"), ("autoencoder", "update"),
        ("diffusion", "forward"), ("diffusion", "update"), ("diffusion", "update, encoding online"),
        ("samples", "one guided evaluation"), ("samples", "samples, 25 steps, guidance 2"), ("samples", "decode"),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["fp32", "bf16"])
def test_encoding_and_sampling_run_in_the_precision_that_is_said(tmp_path, kind):
    """Encoding also inside another autocast: the field sets the precision, not the code around it. A training in fp32 encodes in bf16."""
    config = build({"encoder": {"precision": kind}, "sampling": {"precision": kind}}, preset="tiny")
    subject = Subject(config, sizes_of(config, counts_of(config)), RUNTIME, tmp_path, most=4)
    seen = {}
    for bout in BenchSheet(subject, ("encoding", "samples", "diffusion"), batch=2).bouts():
        for piece in bout.prepare():
            if piece.name == "forward" or piece.name == "update":
                continue
            other = torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind == "fp32" and bout.stage == "encoding")
            with whole_batches(), other, Products() as products:
                piece.call()
            seen[piece.name] = ({"fp32"} if products.fp32 else set()) | ({"bf16"} if products.bf16 else set())
            assert bout.stage == "diffusion" or piece.precision == kind
    alone = {name: {kind} for name in ("encode images", "one guided evaluation", "samples, 25 steps, guidance 2", "decode")}
    assert seen == alone | {"update, encoding online": {"fp32", kind}}


def test_products_change_the_encoder_s_precision_for_a_while(subject, monkeypatch):
    for kind, keyed in (("bf16", "bf16"), ("fp32", "fp32"), ("tf32", "fp32")):
        with subject.products(kind):
            assert subject.frozen.precision == subject.encoder.precision == keyed
        assert subject.frozen.precision == "fp32" and subject.sampling(kind).precision == keyed
    monkeypatch.setattr(Runtime, "torch_device", property(lambda self: torch.device("cuda")))
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.conv.fp32_precision
    for kind, allowed in (("tf32", True), ("fp32", False)):
        with subject.products(kind):
            assert tf32_allowed() == allowed
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.conv.fp32_precision) == before


def test_networks_are_compiled_as_the_stages_compile_them(subject, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)  # marks a module, and compiles nothing
    fast = Subject(subject.config, subject.sizes, Runtime(device="cpu", quiet=True, compile=True), subject.place, most=8)
    fast.__dict__.update(images=subject.images, encoder=subject.encoder)
    task = fast.autoencoder("fp32", compile=True)
    assert task.modules["tokenizer"].residual_encoder.blocks.compiled and "before_last" in vars(task.modules["tokenizer"].decoder)
    assert fast.diffusion(compile=True).modules["sit"].blocks.compiled
    assert fast.generator().model._compiled_call_impl is not None and subject.generator().model._compiled_call_impl is None
    names = {name for bout in BenchSheet(fast, ("autoencoder", "diffusion", "samples"), batch=2).bouts() for name in bout.names}
    assert {"update, compiled", "update, eager", "update, compiled, encoding online", "one guided evaluation, eager"} <= names


def test_the_first_update_counts_memory_and_a_captured_one_warms_up(subject, monkeypatch):
    task, seen = subject.diffusion(), []
    monkeypatch.setattr(task, "fit", lambda: seen.append("fit"))
    monkeypatch.setattr("svgbench.bench.subject.Updates", lambda *_, **__: lambda: seen.append("update"))
    step = subject.update(task, 2, capture=True)
    assert seen == []
    step()
    assert seen == ["fit", *["update"] * (WARM_UP + 2)]
    step()
    assert len(seen) == WARM_UP + 4


def test_the_list_of_a_gpu_fits_an_h200(tmp_path, monkeypatch):
    """The pieces that are measured by default on CUDA; no bout is planned to need more memory than one GPU has."""
    monkeypatch.setattr(Runtime, "torch_device", property(lambda self: torch.device("cuda")))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=MEMORY))
    config = build({}, preset="paper")
    runtime = Runtime(device="cuda", quiet=True)
    bouts = BenchSheet(Subject(config, sizes_of(config, Counts(1_281_167, 50_000, 1000)), runtime, tmp_path, most=512), STAGES).bouts()
    assert all(bout.peak <= MEMORY for bout in bouts)
    assert {name for bout in bouts if bout.stage == "diffusion" for name in bout.names} == {
        "update, compiled", "forward, compiled", "update, eager", "forward, eager",
        *(f"update, compiled, encoding online in {kind}" for kind in ("bf16", "tf32", "fp32")),
        *(f"update, {how}, one of 8 ranks" for how in ("eager", "compiled", "captured")),
    }  # fmt: skip
    assert [(bout.precision, bout.names[-1]) for bout in bouts if bout.stage == "autoencoder"] == [
        ("bf16", "update, compiled"), ("tf32", "update, compiled"),
    ]  # fmt: skip
    assert [(bout.precision, bout.names[-1]) for bout in bouts if bout.stage == "samples"] == [
        ("bf16", "one guided evaluation, eager"), ("fp32", "one guided evaluation, eager"),
    ]  # fmt: skip
    assert pieces.SHARE == 32


def test_the_machine_s_and_the_judges_pieces_run(subject):
    found = {bout.stage: bout for bout in BenchSheet(subject, ("copies", "scores"), batch=2).bouts()}
    for piece in [*found["copies"].prepare(), *BenchSheet(subject, ("scores",), batch=2).bouts()[0].prepare()]:
        piece.call()
    assert found["scores"].names == ("eigvalsh, 2048 x 2048, fp64", "Frechet distance, 2048 features")


def test_an_update_trains(subject):
    task = subject.diffusion()
    before = task.modules["sit"].final.weight.clone()
    assert subject.update(task, 4)() == 4
    assert not torch.equal(task.modules["sit"].final.weight, before)
    assert list(subject.place.glob("log.jsonl")) == []


def test_the_batch_is_the_preset_s_on_a_cpu_unless_given(subject):
    assert [BenchSheet(subject, STAGES).of(stage) for stage in ("autoencoder", "diffusion")] == [32, 64]
    assert BenchSheet(subject, STAGES, batch=3).of("diffusion") == 3


def test_inception_is_measured_with_random_weights(tmp_path):
    config = build({"scores": {"extractor": "inception"}}, preset="tiny")
    made = Subject(config, sizes_of(config, counts_of(config)), RUNTIME, tmp_path, most=8).extractor()
    assert made.dim == 2048 and made.digest == "random" and made.tap is not None


def test_the_command_writes_what_it_measured_and_a_plan_takes_its_pace(tmp_path, capsys):
    words = ["bench", "--preset", "tiny", "--minutes", "0.2", "--batch", "2", "--device", "cpu", "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--stage", "images", "--stage", "diffusion", "--format", "json"])
    assert not ended.value.code
    printed = json.loads(capsys.readouterr().out)
    made = read_bench(tmp_path)
    assert printed["rows"] == made.model_dump(mode="json")["rows"] and made.complete and made.preset == "tiny"
    assert {row.stage for row in made.rows} == {"images", "diffusion"} and made.host["torch"] == torch.__version__
    timed = [row for row in made.rows if row.sets_pace and row.seconds]
    assert timed or all(row.said for row in made.rows if row.stage == "diffusion")  # a busy machine may reach the first call only
    with pytest.raises(SystemExit):
        main(["doctor", "--preset", "tiny", "--out", str(tmp_path)])
    assert (f"pace measured by svgbench bench on {made.date}" in capsys.readouterr().out) == bool(timed)
    with pytest.raises(SystemExit):
        main(["bench", "--out", str(tmp_path), "--against", str(tmp_path / "bench.json"), "--format", "json"])
    assert all(one["ratio"] == 1 for one in json.loads(capsys.readouterr().out))


def test_an_unknown_stage_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["bench", "--stage", "difusion", "--out", str(tmp_path)])
    assert "Did you mean 'diffusion'" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_signal_ends_it_with_what_was_measured(monkeypatch):
    config = build({}, preset="tiny")
    monkeypatch.setattr(Stop, "__enter__", lambda self: setattr(self, "received", 2) or self)
    made, signal = measure(config, sizes_of(config, counts_of(config)), RUNTIME, stages=("copies",), batch=None, minutes=0.1)
    assert signal == "Ctrl-C" and not made.complete and made.rows == ()
