"""Weights files that are absent, foreign, damaged or hostile: one sentence each, and nothing is run or half loaded."""

from __future__ import annotations

import argparse
import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from pytest import MonkeyPatch, fixture, mark, raises
from safetensors.torch import save_file
from small_cards import TINY

from svgbench.backends.open import open_encoder, open_network
from svgbench.config import hub
from svgbench.config.cards import EncoderCard, find, identity, load_cards
from svgbench.errors import BadConfig, BadWeights
from svgbench.weights import files as weights

State = dict[str, torch.Tensor]


@fixture
def state() -> State:
    return {name: value.clone() for name, value in open_network(TINY, seed=9).model.state_dict().items()}


@fixture
def image() -> torch.Tensor:
    return torch.rand(1, 3, 32, 32)


def refused(path: Path) -> str:
    """The one sentence that opening TINY with this file answers."""
    with raises(BadWeights) as error:
        open_encoder(TINY, weights=path)
    assert str(error.value).count("\n") == 0 and str(error.value).endswith(".")
    return str(error.value)


def shipped(path: Path, **pins: str) -> EncoderCard:
    """TINY with weights of its own."""
    return TINY.model_copy(update={"weights": TINY.weights.model_copy(update={"file": str(path), **pins})})


def test_a_file_gives_the_weights_it_holds_in_any_of_the_usual_wrappers(tmp_path: Path, state: State, image: torch.Tensor) -> None:
    expected = open_encoder(TINY, random_weights_seed=9).encode(image)
    save_file(state, tmp_path / "plain.safetensors")
    torch.save(state, tmp_path / "plain.pth")
    torch.save({"state_dict": state, "global_step": 3}, tmp_path / "lightning.ckpt")
    torch.save({"ema": state, "args": {"lr": 1e-4}}, tmp_path / "ema.pt")
    torch.save({"model": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "ranks.bin")
    for path in tmp_path.iterdir():
        assert torch.equal(open_encoder(TINY, weights=path).encode(image), expected), path.name


def test_one_of_several_sets_of_weights_is_asked_for_by_its_key(tmp_path: Path, state: State, image: torch.Tensor) -> None:
    path, other = tmp_path / "two.pt", open_network(TINY, seed=3).model.state_dict()
    torch.save({"first": other, "second": state}, path)
    assert "choose by --weights-key (weights_key in Python, encoder.weights_key in a run): 'first', 'second'" in refused(path)
    expected = open_encoder(TINY, random_weights_seed=9).encode(image)
    encoder = open_encoder(TINY, weights=path, weights_key="second")
    assert torch.equal(encoder.encode(image), expected) and encoder.weights_key == "second"
    keys = [identity(TINY, path, key) for key in (None, "first", "second")]
    assert len(set(keys)) == 3 and keys[0] == identity(TINY, path)


@mark.parametrize("wrapper", ["ema", "module.backbone."])
def test_a_training_s_checkpoint_with_its_arguments_opens(tmp_path: Path, state: State, image: torch.Tensor, wrapper: str) -> None:
    content = {"ema": state} if wrapper == "ema" else {"teacher": {wrapper + name: value for name, value in state.items()}}
    torch.save({**content, "args": argparse.Namespace(path=tmp_path), "best": np.float64(1)}, tmp_path / "run.pth")
    found = open_encoder(TINY, weights=tmp_path / "run.pth").encode(image)
    assert torch.equal(found, open_encoder(TINY, random_weights_seed=9).encode(image))


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, state: State, monkeypatch: MonkeyPatch) -> None:
    path = tmp_path / "own.pt"
    torch.save(state, path)

    def choose(content: object, path: Path, key: str | None) -> object:
        chosen = chosen_before(content, path, key)
        path.write_bytes(path.read_bytes() + b"\0")
        return chosen

    chosen_before = weights.choose
    monkeypatch.setattr(weights, "choose", choose)
    assert "was changed while it was read" in refused(path)


def test_half_precision_files_are_computed_in_single_precision(tmp_path: Path, state: State, image: torch.Tensor) -> None:
    save_file({name: value.half() for name, value in state.items()}, tmp_path / "half.safetensors")
    encoder = open_encoder(shipped(tmp_path / "half.safetensors"))
    assert all(p.dtype == torch.float32 for p in encoder.parameters())
    assert encoder.encode(image).dtype == torch.float32


def test_absent_files_say_which_from_where_and_under_which_licence(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    assert "does not exist" in refused(tmp_path / "none.pth")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with raises(BadWeights) as error:
        open_encoder(find("mae-b16", "paper"))
    for part in ("model.safetensors", "huggingface.co/timm/vit_base_patch16_224.mae", "CC-BY-NC-4.0", "--weights FILE"):
        assert part in str(error.value)
    with raises(BadWeights, match="is missing; reinstall svgbench"):
        open_encoder(shipped(tmp_path / "gone.safetensors"))
    with raises(BadWeights, match="names no weights"):
        open_encoder(TINY)


def test_an_unreachable_server_is_one_sentence(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    def answer(*, local_files_only: bool = False, **_: object) -> str:
        raise FileNotFoundError("no cache") if local_files_only else ConnectionError("name resolution failed")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", answer)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub, "getproxies", dict)
    with raises(BadWeights, match=r"of 'dinov2-b14' is not in the cache and http://127\.0\.0\.1:9 cannot be reached; get model"):
        open_encoder(find("dinov2", "paper"))
    monkeypatch.setattr(hub, "getproxies", lambda: {"https": "http://proxy"})
    with raises(BadWeights, match=r"of 'dinov2-b14' cannot be fetched \(ConnectionError\); get model.safetensors from https"):
        open_encoder(find("dinov2", "paper"))


def test_the_revision_a_card_pins_is_the_one_that_is_fetched(tmp_path: Path, monkeypatch: MonkeyPatch, state: State) -> None:
    asked: list[dict] = []

    def answer(**words: object) -> str:
        asked.append(words)
        return str(tmp_path / "model.safetensors")

    save_file(state, tmp_path / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", answer)
    pins = TINY.weights.model_copy(update={"hub": "someone/something", "revision": "c0ffee"})
    open_encoder(TINY.model_copy(update={"weights": pins}))
    assert asked == [{"repo_id": "someone/something", "filename": "model.safetensors", "revision": "c0ffee", "local_files_only": True}]


def test_another_digest_than_the_card_pins_is_refused(tmp_path: Path, state: State) -> None:
    path = tmp_path / "own.safetensors"
    save_file(state, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    open_encoder(shipped(path, sha256=digest))
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x55")
    with raises(BadWeights, match=rf"has the SHA-256 digest .*, but the card requires {digest[:12]}\.\.\.; download"):
        open_encoder(shipped(path, sha256=digest))


def test_missing_surplus_and_misshapen_tensors_are_named_and_counted(tmp_path: Path, state: State) -> None:
    del state["norm.weight"], state["norm.bias"]
    state["extra"] = torch.zeros(2)
    state["cls_token"] = torch.zeros(1, 1, 7)
    path = tmp_path / "other.safetensors"
    save_file(state, path)
    sentence = refused(path)
    for part in ("2 missing (norm.bias, norm.weight)", "1 unexpected (extra)", "cls_token is (1, 1, 7) instead of (1, 1, 48)"):
        assert part in sentence


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, state: State) -> None:
    state["norm.bias"][3] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    assert "not finite: 1 tensors (norm.bias)" in refused(tmp_path / "nan.safetensors")


@mark.parametrize("suffix", [".safetensors", ".pth"])
@mark.parametrize("kept", [0, 7, 500, 20_000])
def test_truncated_files_are_refused(tmp_path: Path, state: State, suffix: str, kept: int) -> None:
    path = tmp_path / f"cut{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    path.write_bytes(path.read_bytes()[:kept])
    assert "truncated or not a weights file" in refused(path)


class Payload:
    """An object whose unpickling creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@mark.parametrize("nested", [False, True])
def test_files_that_would_run_code_are_refused_and_run_nothing(tmp_path: Path, state: State, nested: bool) -> None:
    marker = tmp_path / "ran"
    content = {"state_dict": {**state, "extra": Payload(marker)}} if nested else Payload(marker)
    torch.save(content, tmp_path / "hostile.pt")
    assert "that could run code, and is not read" in refused(tmp_path / "hostile.pt")
    assert not marker.exists()


def test_a_hostile_file_in_a_directory_runs_nothing_either(tmp_path: Path) -> None:
    torch.save({"a": Payload(tmp_path / "ran")}, tmp_path / "pytorch_model.bin")
    assert "that could run code, and is not read" in refused(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_directory_without_weights_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert "holds none of model.safetensors, model.safetensors.index.json" in refused(tmp_path)


def test_weights_whose_licence_forbids_the_declared_use_are_not_opened(tmp_path: Path, monkeypatch: MonkeyPatch, state: State) -> None:
    save_file(state, tmp_path / "own.safetensors")
    card = TINY.model_copy(update={"licence": "CC-BY-NC-4.0", "forbids": ("commercial",)})
    open_encoder(card, weights=tmp_path / "own.safetensors")
    monkeypatch.setenv("SVGBENCH_USE", "commercial")
    with raises(BadWeights, match=r"'small' have the licence CC-BY-NC-4\.0, which forbids commercial use \(declared by SVGBENCH_USE\)"):
        open_encoder(card, weights=tmp_path / "own.safetensors")
    open_encoder(TINY, weights=tmp_path / "own.safetensors")
    open_encoder(card, random_weights_seed=0)
    monkeypatch.setenv("SVGBENCH_USE", "commerical")
    with raises(BadConfig, match="must be research or commercial"):
        open_encoder(TINY, weights=tmp_path / "own.safetensors")


def test_the_cards_of_non_commercial_weights_say_so() -> None:
    assert all(("NC" in card.licence) == ("commercial" in card.forbids) for card in load_cards().values())


@mark.parametrize("content", [[torch.zeros(3)], {"step": 3}, torch.zeros(3), {"state_dict": {}}])
def test_files_without_named_tensors_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "odd.pt")
    assert "give a file with a state dict" in refused(tmp_path / "odd.pt")


def test_a_refused_file_leaves_the_network_as_it_was(state: State) -> None:
    model = open_network(TINY, seed=1).model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    del state["norm.bias"]
    with raises(BadWeights):
        weights.fill(model, state, where="it")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
