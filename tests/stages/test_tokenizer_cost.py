"""The cost of tokenizers: counts are those of table 7 of arXiv 2510.15301, times are of the batch as it is, with an interval."""

from __future__ import annotations

import json
import math
import random
import time
from functools import cache

import pytest
import torch
from commands import svgbench

from svgbench.backends.open import FrozenEncoder, open_network
from svgbench.config import cards
from svgbench.config.build import build
from svgbench.errors import BrokenArtifact
from svgbench.lab.costs import read_costs, write_cost
from svgbench.machine.processor import processor_name
from svgbench.machine.runtime import Runtime
from svgbench.machine.timing import LEAST, rank_of, timed, times_of
from svgbench.nets.chunks import in_chunks, whole_batches
from svgbench.nets.tokenizer import Codec
from svgbench.stages import tokenizer_cost as tokenizer_cost_module
from svgbench.stages import tokenizers
from svgbench.stages.tokenizer_cost import Terms, operations, parameters_of, tokenizer_cost
from svgbench.tables.published import published

QUICK = ("--batch", 2, "--repetitions", 6, "--warm-up", 1, "--threads", 1)


def printed(tokenizer: str) -> dict[str, float]:
    """Table 7's numbers of a tokenizer."""
    return {row.metric: row.value for row in published() if row.system == "tokenizer-cost" and row.tokenizer == tokenizer}


@cache
def on_meta(name: str) -> tuple[FrozenEncoder, torch.Tensor]:
    """A full-size encoder and an image without memory behind them: shapes alone decide what is counted."""
    card = cards.find(name, "paper")
    with torch.device("meta"):
        return FrozenEncoder(card, open_network(card)), torch.empty(1, 3, 256, 256)


@pytest.mark.parametrize("name", ["DINOv3-S+/16", "SVG(DINOv3-S+/16)", "VA-VAE"])
def test_parameters_and_multiply_adds_are_those_of_the_paper_s_table(name):
    encoder, image = on_meta("va-vae-f16d32" if name == "VA-VAE" else "dinov3-s16plus")
    subject = Codec(encoder) if name == "VA-VAE" else encoder
    if name.startswith("SVG"):
        config = build({"encoder": {"card": "dinov3-s16plus"}}, preset="paper")
        with torch.device("meta"):
            subject = tokenizers.build(encoder, config.autoencoder, 256, torch.device("meta")).eval()
    with whole_batches(), torch.no_grad():
        parts = dict(zip(("encoder", "decoder"), parameters_of(subject, image), strict=True))
        calls = {"encoder": operations(lambda: subject.encode(image))}
        if parts["decoder"]:
            latent = subject.encode(image)
            calls["decoder"] = operations(lambda: subject.decode(latent))
    table = printed(name)
    assert {f"{part}_gflops" for part in calls} == {metric for metric in table if metric.endswith("gflops")}
    for part, work in calls.items():
        assert parts[part] / 1e6 == pytest.approx(table[f"{part}_params_m"], rel=1e-3)
        assert (work.total - work.attention) / 1e9 == pytest.approx(table[f"{part}_gflops"], rel=7e-3) and work.attention > 0
    card = subject.frozen.card if not isinstance(subject, FrozenEncoder) else subject.card
    if not name.startswith("SVG"):
        assert 2 * calls["encoder"].total / 1e9 == pytest.approx(card.gflops, rel=2e-3)  # the card counts a multiply-add as two


def test_an_interval_of_the_median_holds_it_as_often_as_it_says():
    assert [rank_of(n) for n in (LEAST, 8, 9, 20, 50)] == [0, 0, 1, 5, 17]  # tables of the sign test: n = 20 gives the 6th and the 15th
    draw, held = random.Random(0), 0
    for _ in range(2000):
        found = times_of([draw.expovariate(1.0) for _ in range(20)])
        held += found.low <= math.log(2) <= found.high
    assert 0.945 < held / 2000 < 0.975  # 0.9586 by the binomial distribution
    with pytest.raises(ValueError, match="5 times give no interval; at least 6 are needed"):
        times_of([1.0] * 5)


def test_a_call_is_timed_without_its_warm_up():
    calls = []

    def call() -> None:
        calls.append(time.sleep(0.2 if len(calls) < 1 else 0.002))

    found = timed(call, torch.device("cpu"), warm_up=1, repetitions=8)
    assert len(calls) == 9 and 0.002 <= found.low <= found.seconds <= found.high < 0.2


def test_a_measured_batch_is_not_filled_up():
    rows, seen = torch.zeros(1, 2), []
    with whole_batches():
        in_chunks(lambda chunk: seen.append(len(chunk)) or chunk, rows, 32)
    in_chunks(lambda chunk: seen.append(len(chunk)) or chunk, rows, 32)
    assert seen == [1, 32]


def test_every_number_of_a_codec_says_how_it_was_made():
    from svgbench.backends.open import open_encoder

    encoder = open_encoder(cards.find("va-vae", "tiny"))
    scores = {s.metric: s for s in tokenizer_cost(Codec(encoder), 32, Terms(batch=3, repetitions=6, warm_up=1), Runtime(quiet=True))}
    assert set(scores) == {
        f"{p}_{m}" for p in ("encoder", "decoder") for m in ("params_m", "gflops", "latency_ms", "images_per_s", "peak_gb")
    }
    whole = sum(p.numel() for p in encoder.network.model.parameters())
    assert round(1e6 * (scores["encoder_params_m"].value + scores["decoder_params_m"].value)) == whole
    speed = scores["decoder_images_per_s"]
    assert speed.low <= speed.value <= speed.high and speed.count == 3
    assert (
        processor_name()
        and {processor_name(), "fp32", "batch 3", "median of 6"} < set(speed.protocol.details)
        and "batch 1" in scores["decoder_latency_ms"].protocol.details
    )
    assert scores["encoder_gflops"].detail["operations"] == 2 * scores["encoder_gflops"].detail["multiply_adds"]


def test_a_gpu_s_peak_is_of_the_part_s_own_weights_and_its_call(monkeypatch):
    """Allocated before: 900 bytes, of which 400 are this part's 100 parameters; the call takes 250 more."""
    monkeypatch.setattr(tokenizer_cost_module, "reset_peak", lambda device: None)
    monkeypatch.setattr(tokenizer_cost_module, "peak_memory", lambda device: 1150)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 900)
    assert tokenizer_cost_module._peak(list, 100, torch.device("cuda")) == (650, "own weights and one call")
    assert tokenizer_cost_module._peak(list, 100, torch.device("cpu")) == (1150, "the whole process")


def test_a_sample_is_timed_and_its_steps_are_part_of_how():
    from svgbench.config.sampling import SamplingProtocol
    from svgbench.nets.sit import SiT
    from svgbench.stages.tokenizer_cost import sampling_cost
    from svgbench.tables.standings import shared_protocol

    calls, model = [], SiT(channels=4, grid=4, classes=3, width=32, depth=1, heads=2)
    model.register_forward_hook(lambda _model, inputs, _out: calls.append(len(inputs[0])))
    terms, protocols = Terms(batch=3, repetitions=6, warm_up=1), []
    for steps in (2, 3):
        way = SamplingProtocol(sampler="euler", steps=steps, guidance=1.0, shift=0.15)
        alone, together = sampling_cost(model, way, terms, Runtime(quiet=True))
        assert calls == [1] * steps * 7 + [3] * steps * 7 and together.count == 3 and alone.metric == "sampling_latency_ms"
        protocols.append(shared_protocol({"protocol_fields": alone.protocol.model_dump(mode="json")}, ()))
        calls.clear()
    assert protocols[0] != protocols[1]  # no column's title names the steps


def test_cards_are_measured_kept_and_reported_beside_the_published_rows(tmp_path):
    out = tmp_path / "runs"
    done = svgbench("cost", "dinov3", "va-vae-tiny", "--out", out, *QUICK)
    assert done.returncode == 0, done.stderr
    assert "SVG(dinov3-tiny) (random weights)" in done.stdout and "layout of table 7" in done.stdout and "135.59" in done.stdout
    heads, *rows = (
        [cell.strip() for cell in line.split("|")] for line in done.stdout.split("(published)")[0].splitlines() if line[:1] == "|"
    )
    peaks = [row[i] for row in rows[1:] for i, head in enumerate(heads) if "peak memory" in head]
    assert len(peaks) == 6 and not any("*" in peak for peak in peaks), peaks  # the whole process: what was measured before is in it
    assert "peak memory of the whole process is not ranked" in done.stdout
    again = svgbench("report", "--layout", "cost", "--out", out)
    assert again.returncode == 0 and again.stdout == done.stdout
    shown = svgbench("cost", "va-vae", "--random-weights", "--out", out, *QUICK, "--format", "json")
    (content,) = json.loads(shown.stdout)
    assert content["name"] == "va-vae-tiny" and content["random_weights"] and len(content["scores"]) == 10
    assert "va-vae-tiny (random weights)" in svgbench("report", "--layout", "cost", "--out", out).stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dinvo3"], "no card or run named 'dinvo3'. Did you mean 'dinov3'"),
        (["dinov3", "--precision", "fp8"], "--precision fp8 is unknown; use fp32 or bf16."),
        (["dinov3", "mae", "--weights", "x.pt"], "--weights FILE belongs to one card"),
        (["dinov3", "--device", "cuda:99"], "is not available"),
        (
            ["sd-vae", "--random-weights", "--set", "autoencoder.residual.channels=4"],
            "--set changes the autoencoder",
        ),
        (["dinov3", "--repetitions", "5"], "--repetitions"),
    ],
)
def test_bad_words_are_refused_in_a_sentence(tmp_path, words, said):
    done = svgbench("cost", *words, "--out", tmp_path / "runs")
    assert done.returncode == 2 and said in done.stderr and not (tmp_path / "runs").exists(), done.stderr


def test_nothing_measured_and_a_damaged_measurement_are_said(tmp_path):
    done = svgbench("report", "--layout", "cost", "--out", tmp_path)
    assert done.returncode == 2 and "holds no measured cost; measure one first" in done.stderr
    done = svgbench("report", "alignment", "--layout", "cost", "--out", tmp_path)
    assert done.returncode == 2
    path = write_cost(tmp_path, "a", {"encoder": "a"}, [])
    path.write_bytes(path.read_bytes().replace(b'"encoder": "a"', b'"encoder": "b"'))
    with pytest.raises(BrokenArtifact, match=r"a\.json: is damaged.*svgbench cost"):
        read_costs(tmp_path)
