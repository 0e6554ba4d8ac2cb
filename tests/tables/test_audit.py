"""The items of an audit about runs: each fails on a run built to fail it, passes on another, and says why it cannot tell."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from artifacts import SmallRun
from audited import MadeRun, ask, pictures
from fake_runs import gfid, sampled, score
from safetensors.torch import load_file, save_file

from svgbench.config.records import Protocol
from svgbench.tables.audit.items import ITEMS, audit, audit_table
from svgbench.tables.audit.subjects import subject_of

TUNED = {"tuned": "of-0.1,0.15,0.4-by-1000x5steps-seed9001"}


def fd(measure="fd", images="samples", **more):
    """The protocol of a Frechet distance on the judge of the drawn images."""
    made = {"judge": "shapes-cnn", "judge_digest": "ab" * 32, "resize": "as-is", "rounding": "uint8-round", "count": 1000}
    made |= {"reference": "train", "reference_count": 10_000, "reference_digest": "aa" * 32, "balance": "balanced"}
    made |= {"sampling": sampled().sampling} if images == "samples" else {"balance": None}
    return Protocol(measure=measure, images=images, version="v1", **(made | more))


def scored(**more):
    return [score("run", "gfid", 9.0, made=fd(**more))]


def rfid(**more):
    return score("run", "rfid", 2.0, made=fd(images="reconstructed", **({"reference": "val", "reference_digest": "bb" * 32} | more)))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Artifacts of two untrained tokenizers on the same images, one with the alignment of its batch, and statistics of the other."""
    runs = {name: SmallRun(tmp_path_factory.mktemp(name), f"autoencoder.align={name}") for name in ("none", "batch")}
    for one in runs.values():
        one.autoencoder()
    runs["none"].make("images")
    runs["none"].make("statistics")
    return runs


@pytest.fixture
def real(small, tmp_path):
    """A run with these artifacts."""

    def made(name="none", statistics=None, images_of_statistics=None, **stored):
        one = MadeRun(tmp_path / "runs", config=small[name].config.model_dump(mode="json"))
        images = one.add("images", folder=small["none"].places["images"], stored=stored.get("images", True))
        one.add("autoencoder", folder=small[name].places["autoencoder"], stored=stored.get("autoencoder", True))
        files = {path.name: path.read_bytes() for path in small["none"].places["statistics"].iterdir() if path.is_file()}
        one.add("statistics", files | (statistics or {}), inputs={"images": images_of_statistics or images})
        return one

    return made


# --- latents ---


def test_a_latent_that_depends_on_its_batch_fails(real):
    found = real("batch").ask("batch")
    assert found.verdict == "fail" and "alone, among 5 and among 4 images" in found.evidence and "autoencoder.align" in found.advice


def test_a_latent_that_depends_on_its_image_alone_passes(real):
    found = real().ask("batch")
    assert found.verdict == "pass" and "bit for bit" in found.evidence


def test_a_latent_that_is_not_finite_fails(real, small, monkeypatch):
    subject = real().subject()
    monkeypatch.setattr(subject.tokenizer, "encode", lambda images: torch.full((len(images), 2, 2, 2), torch.nan))
    assert ask("batch", subject).evidence == "The latent of an image holds NaN or infinity"


def test_without_its_artifacts_a_tokenizer_cannot_be_tried(real):
    found = real(images=False).ask("batch")
    assert found.verdict == "cannot tell" and found.evidence == "The artifact of 'images' is not in the store"


def test_statistics_of_the_run_s_tokenizer_and_images_pass(real):
    found = real().ask("statistics")
    assert found.verdict == "pass" and found.evidence == "104 channels of 'mae-tiny', measured on all 70 training images"


@pytest.mark.parametrize(
    ("change", "evidence"),
    [
        ({"encoder": "dinov2-tiny"}, "The statistics are of 'dinov2-tiny', the latents of 'mae-tiny'"),
        ({"autoencoder": "ab" * 32}, "The statistics are of 'mae-tiny' with other weights than the latents"),
        ({"images": 50}, "The statistics are of 50 images, the training has 70"),
    ],
)
def test_statistics_of_something_else_fail(real, small, change, evidence):
    about = json.loads((small["none"].places["statistics"] / "statistics.json").read_text())
    found = real(statistics={"statistics.json": about | change}).ask("statistics")
    assert (found.verdict, found.evidence) == ("fail", evidence) and found.advice


def test_statistics_of_other_images_or_none_fail(real, tmp_path):
    found = real(images_of_statistics="cd" * 32).ask("statistics")
    assert found.verdict == "fail" and "other images than the training images" in found.evidence
    assert MadeRun(tmp_path / "other").ask("statistics").evidence == "The run has no statistics of its latents"


def test_statistics_of_a_release_cannot_be_told(real, small):
    about = json.loads((small["none"].places["statistics"] / "statistics.json").read_text())
    found = real(statistics={"statistics.json": about | {"images": 0}}).ask("statistics")
    assert found.verdict == "cannot tell" and "release" in found.evidence


def test_standardising_and_back_gives_the_latent_within_rounding(real):
    found = real().ask("round-trip")
    assert found.verdict == "pass" and "stored latents" in found.evidence


@pytest.mark.parametrize(("value", "text"), [(0.0, "1 of 104 deviations"), (torch.nan, "1 of 104 deviations"), (1e-42, "standardising")])
def test_statistics_that_cannot_be_undone_fail(real, small, tmp_path, value, text):
    tensors = load_file(small["none"].places["statistics"] / "statistics.safetensors")
    tensors["std"][3] = value
    save_file(tensors, tmp_path / "statistics.safetensors")
    found = real(statistics={"statistics.safetensors": (tmp_path / "statistics.safetensors").read_bytes()}).ask("round-trip")
    assert found.verdict == "fail" and text in found.evidence.lower() and found.advice
    assert "channel 3" in found.evidence or value == 1e-42


def test_statistics_without_stored_latents_are_tried_on_drawn_ones(small, tmp_path):
    one = MadeRun(tmp_path)
    place = small["none"].places["statistics"]
    one.add("statistics", {"statistics.safetensors": (place / "statistics.safetensors").read_bytes()})
    assert "latents drawn with these statistics" in one.ask("round-trip").evidence
    assert MadeRun(tmp_path, "b").ask("round-trip").verdict == "cannot tell"


# --- sampling ---


def test_shifts_up_to_one_pass(tmp_path):
    found = MadeRun(tmp_path, scores=[gfid("run", 9.0, steps=n) for n in (5, 25)]).ask("time")
    assert (found.verdict, found.evidence) == (
        "pass", "5 to 25 steps from noise at 0 to data at 1, training shift 0.4, sampling shift 0.15",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "way", "text"),
    [
        (["diffusion.shift=1.63"], {}, "The training shift 1.63 is outside (0, 1]"),
        ([], {"shift": 2.0}, "The sampling shift 2 is outside (0, 1]"),
        ([], {"steps": 0}, "The sampler takes 0 steps"),
        ([], {"shift": 0.4, **TUNED}, "The tuned shift 0.4 is the smallest or largest candidate"),
    ],
)
def test_times_towards_data_no_steps_and_an_edge_fail(tmp_path, words, way, text):
    found = MadeRun(tmp_path, "run", *words, scores=[gfid("run", 9.0, **way)]).ask("time")
    assert found.verdict == "fail" and text in found.evidence and found.advice


def test_without_samples_the_configured_times_are_taken_and_a_tuned_shift_is_unknown(tmp_path):
    assert "25 steps" in MadeRun(tmp_path, "a", "sampling.steps=[25]").ask("time").evidence
    found = MadeRun(tmp_path, "b", "sampling.shift=tuned").ask("time")
    assert (found.verdict, found.evidence) == ("cannot tell", "The shift is tuned, and no samples are scored")
    assert MadeRun(tmp_path, "c", config={"preset": 3}).ask("time").verdict == "cannot tell"
    assert MadeRun(tmp_path, "d", "diffusion.objective=ddpm", "sampling.sampler=ddim").ask("time").verdict == "pass"


def test_a_tuned_shift_inside_its_candidates_or_at_one_passes(tmp_path):
    assert MadeRun(tmp_path, "a", scores=[gfid("a", 9.0, shift=0.15, **TUNED)]).ask("time").verdict == "pass"
    one = {"tuned": "of-0.4,1-by-1000x5steps-seed9001"}
    assert MadeRun(tmp_path, "b", scores=[gfid("b", 9.0, shift=1.0, **one)]).ask("time").verdict == "pass"


@pytest.mark.parametrize(("seed", "verdict"), [(0, "pass"), (9001, "fail")])
def test_the_seed_of_tuning_must_not_be_a_seed_of_the_scores(tmp_path, seed, verdict):
    rows = [gfid("run", 9.0, seed=seed, shift=0.15, **TUNED)]
    MadeRun(tmp_path, "run", "sampling.shift=tuned", scores=[gfid("run", 9.0, shift=0.15, **TUNED)])
    found = MadeRun(tmp_path, f"run.seed-{seed + 1}", "sampling.shift=tuned", scores=[{**rows[0], "seed": seed}]).ask("tuning")
    assert found.verdict == verdict and "seed 9001" in found.evidence


def test_a_fixed_shift_was_not_tuned_and_an_unstated_seed_cannot_be_told(tmp_path):
    assert MadeRun(tmp_path, "a").ask("tuning").verdict == "pass"
    rows = [gfid("b", 9.0, tuned="by hand")]
    found = MadeRun(tmp_path, "b", scores=rows).ask("tuning")
    assert found.verdict == "cannot tell" and "tuning seed" in found.evidence


@pytest.mark.parametrize(
    ("balance", "labels", "verdict"),
    [
        ("balanced", np.arange(1000) % 10, "pass"),
        ("balanced", np.arange(1000) % 9, "fail"),
        ("balanced", np.r_[np.arange(990) % 10, np.zeros(10, int)], "fail"),
        ("random", np.random.default_rng(0).integers(0, 10, 1000), "pass"),
        ("random", np.random.default_rng(0).integers(0, 9, 1000), "fail"),
        (None, np.arange(1000) % 10, "fail"),
    ],
)
def test_labels_are_as_even_as_the_protocol_states(tmp_path, balance, labels, verdict):
    one = MadeRun(tmp_path, scores=scored(balance=balance))
    one.transformer()
    one.samples(pictures(), labels)
    assert one.ask("labels").verdict == verdict


def test_labels_of_a_run_without_samples_or_without_a_statement_cannot_be_told(tmp_path):
    one = MadeRun(tmp_path)
    assert one.ask("labels").evidence == "The run has no samples"
    one.samples(pictures(), np.arange(20) % 10)
    assert one.ask("labels").evidence == "No score and no manifest states how labels were drawn"


def test_duplicates_among_samples_fail_with_their_number(tmp_path):
    images = pictures()
    one = MadeRun(tmp_path)
    one.samples(images, np.arange(20))
    assert one.ask("duplicates").evidence == "No two of the 20 samples of a cell are equal"
    one.samples(np.concatenate([images, images[:3]]), np.arange(23), steps=5)
    found = one.ask("duplicates")
    assert found.verdict == "fail" and found.advice == "leave out the padded tail"
    assert found.evidence == "Samples of steps 5, guidance 1: 3 of 23 images are duplicates; the last 3 repeat earlier ones"
    other = MadeRun(tmp_path, "other")
    assert other.ask("duplicates").verdict == "cannot tell"
    other.samples(np.concatenate([images[:2], images[:1], images[2:]]), np.arange(21))
    assert "1 of 21 images are duplicates; image 2 equals 0" in other.ask("duplicates").evidence


# --- trainings ---


def checkpoint(tmp_path):
    """A file with raw and averaged weights of a SiT."""
    names = ("x_embedder.proj.weight", "t_embedder.mlp.0.weight", "blocks.0.adaLN_modulation.1.weight", "pos_embed")
    raw, average = ({name: torch.full((2, 3), float(value)) for name in names} for value in (1, 2))
    torch.save({"model": raw, "ema": average}, tmp_path / "sit.pt")
    return tmp_path / "sit.pt"


@pytest.mark.parametrize(("key", "verdict"), [("ema", "pass"), ("model", "fail")])
def test_raw_weights_beside_averaged_ones_fail(tmp_path, key, verdict):
    words = ("diffusion.release.kind=sit", f"diffusion.release.file={checkpoint(tmp_path)}", f"diffusion.release.weights_key={key}")
    one = MadeRun(tmp_path / "runs", "run", *words)
    one.add("imported-diffusion", {"sit.json": {}}, cost={"weights_key": key})
    found = one.ask("averages")
    assert found.verdict == verdict and (verdict == "pass" or "took 'model'" in found.evidence)
    (tmp_path / "sit.pt").write_bytes(b"no weights")
    assert one.ask("averages").verdict == "cannot tell"
    (tmp_path / "sit.pt").unlink()
    assert "is not here" in one.ask("averages").evidence


def test_averages_of_the_first_weights_fail_and_trained_ones_pass(tmp_path):
    short, long, none, untrained = (MadeRun(tmp_path, name) for name in "abcd")
    short.transformer(images_seen=256)
    found = short.ask("averages")
    assert found.verdict == "fail" and "98% of the first weights (decay 0.995, 4 updates)" in found.evidence
    long.transformer()
    assert long.ask("averages").evidence == "Samples use averaged weights (decay 0.995, 1,000 updates)"
    none = MadeRun(tmp_path, "e", "diffusion.training.ema=0")
    none.transformer(images_seen=256)
    assert none.ask("averages").verdict == "pass" and untrained.ask("averages").verdict == "cannot tell"


@pytest.mark.parametrize(
    ("sizes", "verdict", "text"),
    [
        ({}, "pass", "SiT has width 128, a token 104 numbers (1.23 to 1)"),
        ({"channels": 4, "patch": 2}, "pass", "a token 16 numbers"),
        ({"channels": 40, "patch": 2}, "fail", "a token 160 numbers (0.80 to 1)"),
        ({"channels": 768, "wide": {"width": 2048}}, "pass", "The wide head has width 2,048"),
        ({"head_width": 96}, "fail", "MAR's head has width 96, a token 104 numbers"),
        ({"channels": 768, "prediction": "data"}, "pass", "predicts data"),
    ],
)
def test_the_transformer_is_as_wide_as_a_token_has_numbers(tmp_path, sizes, verdict, text):
    one = MadeRun(tmp_path)
    one.transformer(**sizes)
    found = one.ask("width")
    assert found.verdict == verdict and text in found.evidence
    assert MadeRun(tmp_path, "empty").ask("width").verdict == "cannot tell"


def log(l1, lines=100, adversarial_from=2.0):
    """A training log whose l1 follows a function of the share of the images, with the adversarial loss from a share on."""
    shares = [(n + 1) / lines for n in range(lines)]
    rows = [
        {"images_seen": 400 * (n + 1), "l1": l1(x), **({"generator": 0.1} if x >= adversarial_from else {})} for n, x in enumerate(shares)
    ]
    return {"log.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode()}


@pytest.mark.parametrize(
    ("l1", "verdict", "gain"),
    [(lambda x: 0.1 / x**0.5, "fail", "+2.99 dB"), (lambda x: 0.1 / x**0.01, "pass", "+0.06 dB"), (lambda x: x, "pass", "-5.98 dB")],
)
def test_a_decoder_that_still_gains_is_not_at_its_plateau(tmp_path, l1, verdict, gain):
    one = MadeRun(tmp_path)
    one.add("autoencoder", log(l1))
    found = one.ask("plateau")
    assert found.verdict == verdict and gain in found.evidence and "20,000 images" in found.evidence
    late, early = (MadeRun(tmp_path, f"from-{start}") for start in (0.75, 0.25))
    late.add("autoencoder", log(l1, adversarial_from=0.75))
    early.add("autoencoder", log(l1, adversarial_from=0.25))
    assert late.ask("plateau").verdict == ("fail" if verdict == "fail" else "cannot tell") and early.ask("plateau").verdict == verdict


@pytest.mark.parametrize(
    ("stage", "files", "reason"),
    [
        ("adoption", {"autoencoder.json": {}}, "trained elsewhere"),
        ("autoencoder", {"autoencoder.json": {}}, "has no training log"),
        ("autoencoder", log(lambda x: 1.0, adversarial_from=0.75), "the adversarial loss began in these images"),
        ("autoencoder", log(lambda x: 1.0, 3), "has 3 lines with l1, and 20 are needed"),
        ("images", {"images.json": {}}, "has no finished autoencoder"),
    ],
)
def test_without_a_long_enough_log_the_plateau_cannot_be_told(tmp_path, stage, files, reason):
    one = MadeRun(tmp_path)
    one.add(stage, files)
    found = one.ask("plateau")
    assert found.verdict == "cannot tell" and reason in found.evidence


def grid(out, *, seeds=(0, 1, 2), shared=False, encoder="dinov3-tiny", weights=lambda seed: "one file"):
    """Runs of some seeds; ``shared``: of one autoencoder; ``weights``: identity of a seed's encoder."""
    for seed in seeds:
        name = encoder + (f".seed-{seed}" if seed else "")
        config = {"encoder": {"identity": weights(seed)}}
        one = MadeRun(out, name, config=config, scores=[gfid(encoder, 9.0 + seed, seed=seed)], encoder=encoder)
        one.stages = [{"stage": "autoencoder", "key": "k" if shared else f"{encoder} {seed}", "cell": {}, "seconds": 1.0, "cost": {}}]
        one.seal()
    return one


def test_three_seeds_of_their_own_networks_pass(tmp_path):
    found = grid(tmp_path).ask("seeds")
    assert found.evidence == "3 seeds that share no trained autoencoder, no run of another encoder beside them"
    assert found.verdict == "pass"


def test_three_pretrainings_may_be_compared_and_unnamed_weights_cannot_be_told(tmp_path):
    several, unnamed = tmp_path / "a", tmp_path / "b"
    grid(several, weights=lambda seed: f"weights {seed}")
    grid(unnamed, weights=lambda seed: "")
    for out in (several, unnamed):
        grid(out, encoder="mae-tiny")
    subject = subject_of("dinov3-tiny", several)
    assert "several pretrainings" in ask("seeds", subject).evidence
    assert ask("seeds", subject_of("dinov3-tiny", unnamed)).verdict == "cannot tell"


def test_few_seeds_a_shared_autoencoder_and_one_pretraining_fail(tmp_path):
    assert grid(tmp_path / "a", seeds=(0, 1)).ask("seeds").evidence == "2 seeds"
    assert grid(tmp_path / "b", shared=True).ask("seeds").evidence == "The seeds share one trained autoencoder"
    one = grid(tmp_path / "c", seeds=(0,))
    grid(tmp_path / "c", encoder="mae-tiny")
    found = one.ask("seeds")
    assert found.evidence == "1 seed; one pretraining, compared here with mae-tiny" and "2 or more other seeds" in found.advice
    assert MadeRun(tmp_path / "d").ask("seeds").verdict == "cannot tell"


# --- scores ---


def with_samples(out, name="run", side=8, reference=(8, 8), scores=None):
    one = MadeRun(out, name, scores=scores or [*scored(), rfid()])
    one.add("references", {"reference.json": {"side": reference}})
    one.samples(pictures(side=side), np.arange(20))
    return one


def test_bytes_of_the_references_size_pass(tmp_path):
    found = with_samples(tmp_path).ask("rounding")
    assert found.verdict == "pass" and "Bytes of 8x8 px" in found.evidence and "uint8-round" in found.evidence
    assert MadeRun(tmp_path, "b", scores=[rfid()]).ask("rounding").verdict == "pass"


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"scores": scored(rounding=None)}, "gFID does not state how pixels were rounded"),
        ({"scores": scored(rounding="uint8-clip")}, "gFID was made with the rounding 'uint8-clip'"),
        ({"scores": scored(resize=None)}, "gFID does not state how shapes-cnn resizes"),
        ({"side": 16}, "Samples have 16x16 px, the references 8x8 px"),
    ],
)
def test_other_sizes_and_unstated_rounding_fail(tmp_path, more, text):
    found = with_samples(tmp_path, **more).ask("rounding")
    assert found.verdict == "fail" and text in found.evidence and found.advice


def test_samples_stored_as_floats_fail_and_a_reference_without_size_cannot_be_told(tmp_path):
    one = with_samples(tmp_path)
    one.samples(pictures().astype(np.float32), np.arange(20), steps=5)
    assert one.ask("rounding").evidence == "Samples are stored as float32, not as bytes"
    assert with_samples(tmp_path, "b", reference=None).ask("rounding").verdict == "cannot tell"
    assert MadeRun(tmp_path, "c").ask("rounding").verdict == "cannot tell"


def test_samples_against_training_and_reconstructions_against_validation_images_pass(tmp_path):
    found = MadeRun(tmp_path, scores=[*scored(), rfid(reference_count=2000)]).ask("reference")
    assert found.evidence == "Samples against 10,000 training images, reconstructions against 2,000 validation images"


@pytest.mark.parametrize(
    ("scores", "text"),
    [
        (scored(reference="val"), "gFID compares with the validation images"),
        ([rfid(reference="train")], "rFID compares with the training images"),
    ],
)
def test_the_reference_of_the_other_score_fails(tmp_path, scores, text):
    found = MadeRun(tmp_path, scores=scores).ask("reference")
    assert found.verdict == "fail" and text in found.evidence and found.advice


def test_given_references_are_known_by_their_digest_alone(small, tmp_path):
    images = small["none"].places["images"]
    digests = {name: facts["sha256"] for name, facts in json.loads((images / "images.json").read_text())["files"].items()}
    verdicts = {}
    for split, digest in {"train": digests["train.images.npy"], "val": digests["val.images.npy"], "other": "cc" * 32}.items():
        one = MadeRun(tmp_path, split, scores=scored(reference="images", reference_digest=digest))
        one.add("images", folder=images)
        verdicts[split] = one.ask("reference").verdict
    assert verdicts == {"train": "pass", "val": "fail", "other": "cannot tell"}
    assert MadeRun(tmp_path, "none").ask("reference").verdict == "cannot tell"


def test_more_images_than_features_pass_and_fewer_fail(tmp_path):
    found = MadeRun(tmp_path, "a", scores=scored()).ask("counts")
    assert found.evidence == "1,000 images for 128 features; fewer than the usual 50,000, as its protocol states"
    assert found.verdict == "pass"
    found = MadeRun(tmp_path, "b", scores=scored(count=128)).ask("counts")
    assert found.verdict == "fail" and "128 images for 128 features of shapes-cnn: the covariance is singular" in found.evidence
    assert "100 references" in MadeRun(tmp_path, "c", scores=scored(reference_count=100)).ask("counts").evidence
    assert "usual 50,000 or more" in MadeRun(tmp_path, "d", scores=scored(count=50_000)).ask("counts").evidence
    assert MadeRun(tmp_path, "e", scores=scored(judge="unheard")).ask("counts").verdict == "cannot tell"
    assert MadeRun(tmp_path, "f").ask("counts").verdict == "cannot tell"


# --- the audit as a whole ---


def test_every_item_is_asked_of_something_and_its_names_are_unique():
    assert len(ITEMS) == 15 == len({item.name for item in ITEMS}) == len({item.title for item in ITEMS})
    assert all(item.of_run or item.of_set or item.of_numbers for item in ITEMS)


def test_an_empty_run_has_a_finding_for_every_item_and_never_a_traceback(tmp_path):
    subject = MadeRun(tmp_path).subject()
    found = {one.item.name: one.finding for one in audit(subject)}
    assert set(found) == {item.name for item in ITEMS if item.of_run}
    assert all(finding.evidence and (finding.advice != "") == (finding.verdict == "fail") for finding in found.values())
    (note,) = audit_table(subject, audit(subject)).notes
    assert note.startswith("14 items: ")


def test_a_damaged_artifact_is_an_error_and_not_a_verdict(tmp_path):
    from svgbench.errors import BrokenArtifact

    one = MadeRun(tmp_path)
    key = one.transformer()
    place = tmp_path / "store" / "diffusion" / key[:32] / "sit.json"
    place.write_bytes(place.read_bytes().replace(b"128", b"999"))
    with pytest.raises(BrokenArtifact, match="its bytes are not those"):
        one.ask("width")


def test_ask_names_one_item(tmp_path):
    with pytest.raises(ValueError):
        ask("no such item", MadeRun(tmp_path).subject())
