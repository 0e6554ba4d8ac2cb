"""Which files of a directory are the weights: shards, variants, folders of other libraries."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file

from svgbench.config.weight_files import weights_files
from svgbench.errors import BadWeights
from svgbench.weights import files as weights

STATE = {"a.weight": torch.randn(2, 3), "b.weight": torch.randn(3)}


def shards(folder, stem, suffix=".safetensors", index=True, values=STATE):
    """One tensor a file, with or without the index."""
    folder.mkdir(exist_ok=True)
    names = [f"{stem}-{n:05d}-of-00002{suffix}" for n in (1, 2)]
    for name, tensor in zip(names, values, strict=True):
        part = {tensor: values[tensor]}
        save_file(part, folder / name) if suffix == ".safetensors" else torch.save(part, folder / name)
    if index:
        content = {"weight_map": dict(zip(values, names, strict=True))}
        variant = stem.partition(".")[2]
        ending = f"{suffix}.index.{variant}.json" if variant else f"{suffix}.index.json"
        (folder / f"{stem.partition('.')[0]}{ending}").write_text(json.dumps(content))
    return names


def same(found, wanted=STATE):
    return found.keys() == wanted.keys() and all(torch.equal(found[name], value) for name, value in wanted.items())


@pytest.mark.parametrize("stem", ["diffusion_pytorch_model", "model", "pytorch_model"])
@pytest.mark.parametrize("index", [True, False])
def test_shards_are_read_whole_with_or_without_their_index(tmp_path, stem, index):
    suffix = ".bin" if stem == "pytorch_model" else ".safetensors"
    names = shards(tmp_path / "d", stem, suffix, index)
    assert same(weights.read(tmp_path / "d"))
    assert same(weights.read(tmp_path / "d" / names[1]))  # one of them stands for all
    (tmp_path / "d" / names[0]).unlink()
    for place in (tmp_path / "d", tmp_path / "d" / names[1]):
        with pytest.raises(BadWeights, match=rf"files, of which 1 are missing \({names[0]}\); fetch them too"):
            weights.read(place)


@pytest.mark.parametrize("variant", ["fp16", "bf16", "non_ema"])
def test_a_variant_is_taken_only_where_there_is_nothing_else_and_said(tmp_path, capsys, variant):
    half = {name: value.half() for name, value in STATE.items()}
    save_file(half, tmp_path / f"diffusion_pytorch_model.{variant}.safetensors")
    assert same(weights.read(tmp_path), half)
    assert f"took its variant {variant}" in capsys.readouterr().err
    save_file(STATE, tmp_path / "diffusion_pytorch_model.safetensors")
    assert same(weights.read(tmp_path)) and capsys.readouterr().err == ""


AVERAGE = {name: value + 1 for name, value in STATE.items()}
BESIDE = {
    "ema_model.safetensors": None, "model_ema.safetensors": None, "model.ema.safetensors": None, "averaged.pt": AVERAGE,
    "custom_checkpoint_0.pkl": AVERAGE, "custom_checkpoint_1.pkl": {"decay": 0.9, "shadow_params": list(AVERAGE.values())},
    "model_1.safetensors": None,
}  # fmt: skip


@pytest.mark.parametrize("name", BESIDE)
def test_an_average_in_a_file_beside_the_raw_weights_is_a_question(tmp_path, name):
    save_file(STATE, tmp_path / "model.safetensors")
    torch.save({"state": {}}, tmp_path / "optimizer.bin")
    torch.save({"last_epoch": 3}, tmp_path / "custom_checkpoint_2.pkl")
    assert same(weights.read(tmp_path))
    save_file(AVERAGE, tmp_path / name) if BESIDE[name] is None else torch.save(BESIDE[name], tmp_path / name)
    with pytest.raises(BadWeights, match=rf"holds model\.safetensors and.* {re.escape(name)}.*; give the file to use"):
        weights.read(tmp_path)
    assert same(weights.read(tmp_path / "model.safetensors"))


def test_another_network_beside_the_weights_is_none_of_theirs(tmp_path):
    save_file(STATE, tmp_path / "model.safetensors")
    save_file({"critic.weight": torch.ones(3, 3)}, tmp_path / "model_1.safetensors")
    torch.save({"mean": torch.zeros(3)}, tmp_path / "custom_checkpoint_0.pkl")
    assert same(weights.read(tmp_path))


def test_a_cache_of_hugging_face_opens_through_its_links(tmp_path, monkeypatch):
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    save_file(STATE, blobs / "0a1b")
    (snapshot / "model.safetensors").symlink_to("../../blobs/0a1b")
    assert same(weights.read(snapshot)) and same(weights.read(snapshot / "model.safetensors")) and same(weights.read(blobs / "0a1b"))
    with pytest.raises(BadWeights, match=r"in the cache of Hugging Face; give its folder snapshots/abc\.$"):
        weights.read(tmp_path / "models--a--b")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.safetensors").symlink_to("models--a--b/blobs/0a1b")
    assert same(weights.read(Path("link.safetensors")))


@pytest.mark.parametrize("index", [True, False])
def test_shards_of_two_variants_are_never_mixed(tmp_path, index):
    half = {name: value.half() for name, value in STATE.items()}
    shards(tmp_path, "diffusion_pytorch_model.fp16", index=index, values=half)
    assert same(weights.read(tmp_path), half)
    shards(tmp_path, "diffusion_pytorch_model", index=index)
    assert same(weights.read(tmp_path))


def test_the_vae_of_a_pipeline_is_found_in_its_variant(tmp_path):
    shards(tmp_path / "vae", "diffusion_pytorch_model.fp16")
    assert len(weights_files(tmp_path)) == 2


@pytest.mark.parametrize(
    "name, words",
    [
        ("mp_rank_00_model_states.pt", "a checkpoint of DeepSpeed; make one file of it .* python zero_to_fp32.py"),
        ("bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", "a checkpoint of DeepSpeed"),
        ("saved_model.pb", "holds TensorFlow weights"),
        ("flax_model.msgpack", "holds Flax weights"),
        ("decoder.onnx", "holds an ONNX model"),
        ("__0_0.distcp", r"holds __0_0.distcp of torch.distributed.checkpoint without its .metadata"),
        ("unet/diffusion_pytorch_model.safetensors", r"holds weights in unet; give that folder"),
        ("model.safetensors.index.json", r"is not an index of weights files"),
        ("mine.ckpt", r"holds weights under another name \(mine.ckpt\); give that file itself"),
    ],
)
def test_a_directory_of_something_else_says_what_it_is(tmp_path, name, words):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(BadWeights, match=words):
        weights.read(tmp_path)


def test_an_index_that_git_lfs_did_not_fetch_is_named(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(BadWeights, match="is a Git LFS pointer, not the index; run `git lfs pull`"):
        weights.read(tmp_path)


@pytest.fixture
def folder(tmp_path):
    """A folder of torch.distributed.checkpoint, with raw and averaged weights."""
    raw = {name: torch.zeros_like(value) for name, value in STATE.items()}
    place = tmp_path / "step-100"
    dcp.save({"model": raw, "ema": STATE, "optim": {"lr": 0.1}, "step": 3}, checkpoint_id=place, no_dist=True)
    return place


@pytest.mark.filterwarnings("ignore")
def test_a_folder_of_distributed_checkpoints_is_read(folder):
    found = weights.read(folder)
    assert same(found) and found.key == "ema"
    assert not any(value.any() for value in weights.read(folder, "model").values())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", ["a part left out", "a part too small", "a size of a petabyte"])
def test_a_folder_whose_metadata_leaves_numbers_open_is_refused(folder, change):
    """Without this, what no part fills would be whatever was in memory."""
    metadata = dcp.FileSystemReader(folder).read_metadata()
    entry = metadata.state_dict_metadata["ema.a.weight"]
    if change == "a part left out":
        entry.chunks = []
    elif change == "a part too small":
        entry.chunks = [dataclasses.replace(entry.chunks[0], sizes=torch.Size([1, 3]))]
    else:
        entry.size = torch.Size([1 << 48, 3])
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(BadWeights, match=r"cannot be read as a folder of torch\.distributed\.checkpoint \(.*ema\.a\.weight"):
        weights.read(folder)


@pytest.mark.filterwarnings("ignore")
def test_a_folder_of_distributed_checkpoints_that_is_not_whole_is_one_sentence(folder):
    (metadata,) = (folder / ".metadata",)
    whole = metadata.read_bytes()
    metadata.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadWeights, match=r"make one file of it: .* torch\.distributed\.checkpoint\.format_utils dcp_to_torch DIR"):
        weights.read(folder)
    metadata.write_bytes(whole)
    next(folder.glob("*.distcp")).unlink()
    with pytest.raises(BadWeights, match=r"lacks its file|would be larger"):
        weights.read(folder)
