"""Shipped results are found by the same keys as those of a store, are copied before a run, and belong to the preset that ships them."""

from __future__ import annotations

import pytest
import torch
from finished import fill, finish, planned
from safetensors.torch import load_file, save_file

from svgbench.config.build import build
from svgbench.errors import BrokenArtifact
from svgbench.lab import shipped
from svgbench.lab.finished import Finished
from svgbench.lab.plan import nodes_of, resolve
from svgbench.lab.run_plan import run_plan
from svgbench.lab.store import Store
from svgbench.lab.worker import Bench
from svgbench.shelf import folder


@pytest.fixture
def with_shipped(tmp_path, monkeypatch):
    """A plan whose stage 1 is shipped, and its node."""
    plan = planned(tmp_path)
    node = next(node for node in plan.nodes.values() if node.stage == "autoencoder")
    there = finish(plan, tmp_path / "shipped", keys=[node.key])
    monkeypatch.setattr(shipped, "shipped", lambda: there)
    return plan, node, there


def test_a_shipped_result_counts_as_finished_and_is_copied_once(with_shipped, tmp_path):
    plan, node, there = with_shipped
    store = Store(tmp_path / "runs" / "store")
    assert Finished(plan, store).keys() == {node.key} and store.manifest(node.stage, node.key) is None
    shipped.install(plan.nodes.values(), store)
    assert store.verify(node.stage, node.key).manifest == there.verify(node.stage, node.key).manifest
    changed = (store.place(node.stage, node.key) / "manifest.json").stat().st_mtime_ns
    shipped.install(plan.nodes.values(), store)
    assert (store.place(node.stage, node.key) / "manifest.json").stat().st_mtime_ns == changed
    assert [path.name for path in store.place(node.stage, node.key).parent.iterdir()] == [node.key[:32]]


def test_a_run_gets_it_before_its_first_stage(with_shipped, tmp_path, monkeypatch):
    plan, node, _ = with_shipped
    out, asked = tmp_path / "runs", []
    monkeypatch.setattr("svgbench.lab.run_plan.check", lambda plan, missing: None)
    monkeypatch.setattr("svgbench.lab.run_plan.run_here", lambda plan, missing, *rest, **options: asked.append(missing))
    run_plan(plan, out, Bench(out=str(out), device="cpu"), keep_going=False, shelf=None)
    assert asked == [set(plan.nodes) - {node.key}]
    assert Store(out / "store").manifest(node.stage, node.key) is not None


def test_it_is_left_unused_where_everything_is_to_be_trained(with_shipped, tmp_path, monkeypatch):
    plan, *_ = with_shipped
    monkeypatch.setenv(shipped.OFF, "1")
    store = Store(tmp_path / "runs" / "store")
    shipped.install(plan.nodes.values(), store)
    assert not Finished(plan, store).keys() and not store.root.exists()


def test_a_damaged_one_is_not_copied(with_shipped, tmp_path):
    plan, node, there = with_shipped
    file = there.place(node.stage, node.key) / "autoencoder.safetensors"
    file.write_bytes(b"x" * file.stat().st_size)
    with pytest.raises(BrokenArtifact, match="not those the manifest lists"):
        shipped.install(plan.nodes.values(), Store(tmp_path / "runs" / "store"))


def test_an_artifact_is_shipped_with_its_weights_in_half_precision(tmp_path, monkeypatch):
    plan = planned(tmp_path)
    node = next(node for node in plan.nodes.values() if node.stage == "autoencoder")
    weights = {"w": torch.tensor([1 / 3, -2.0]), "count": torch.tensor([7])}
    monkeypatch.setattr("finished.fill", lambda node, place: _written(place, node, weights))
    store = finish(plan, tmp_path, keys=[node.key])
    there = Store(tmp_path / "shipped")
    monkeypatch.setattr(shipped, "shipped", lambda: there)
    size = shipped.ship(store, node.stage, node.key)
    found = there.verify(node.stage, node.key).manifest
    assert size == sum(found.sizes.values()) and found.cost["weights"] == "rounded to half precision"
    state = load_file(there.place(node.stage, node.key) / "autoencoder.safetensors")
    assert state["w"].dtype == torch.float16 and torch.equal(state["w"], weights["w"].half())
    assert torch.equal(state["count"], weights["count"])
    shipped.install(plan.nodes.values(), Store(tmp_path / "runs" / "store"))
    assert Finished(plan, Store(tmp_path / "runs" / "store")).keys() == {node.key}


def _written(place, node, weights):
    fill(node, place)
    save_file(weights, place / "autoencoder.safetensors")


def test_the_shipped_ones_are_stage_1_of_the_preset_mini(tmp_path):
    """Of the tokenizers of the paper's table 4 on DINOv3, and of SVG's on DINOv2, at every seed; what a user changes in stage 1 trains its
    own. With them the package's weights have less than 30 MB."""
    tokenizers = [("dinov3", other) for other in ({"residual": {"channels": 0}}, {"align": "none"}, {"align": "frozen"})]
    tokenizers += [("dinov2", {})]

    def key(seed, encoder, autoencoder):
        config = resolve(build({"seed": seed, "encoder": {"card": encoder}, "autoencoder": autoencoder}, preset="mini"))
        return next(node for node in nodes_of(config) if node.stage == "autoencoder")

    nodes = [key(seed, *tokenizer) for seed in (0, 7) for tokenizer in tokenizers]
    there = shipped.shipped()
    assert {node.key[:32] for node in nodes} == {path.name for path in (there.root / "autoencoder").iterdir()}
    assert all(shipped.look(node) is not None for node in nodes)
    for node in nodes[: len(tokenizers)]:
        assert there.verify(node.stage, node.key).manifest.cost["weights"] == "rounded to half precision"
        assert sum(there.verify(node.stage, node.key).manifest.sizes.values()) < 2_200_000
    assert shipped.look(key(0, "dinov3", {"align": "none", "seed": 1})) is None
    assert sum(path.stat().st_size for path in folder("encoders").rglob("*.safetensors")) < 30_000_000


def test_runs_of_several_seeds_share_a_stage_1_with_its_own_seed():
    def keys(settings):
        config = resolve(build(settings, preset="tiny"))
        return {node.stage: node for node in nodes_of(config)}

    plain, other = keys({"seed": 5}), keys({"seed": 6})
    own = [keys({"seed": seed, "autoencoder": {"seed": 5}}) for seed in (5, 6)]
    assert plain["autoencoder"].key != other["autoencoder"].key
    assert {nodes["autoencoder"].key for nodes in own} == {plain["autoencoder"].key}
    assert own[0]["diffusion"].key == plain["diffusion"].key != own[1]["diffusion"].key
    assert own[0]["reconstruction-scores"].key == own[1]["reconstruction-scores"].key != other["reconstruction-scores"].key
    assert own[0]["probe-scores"].key == own[1]["probe-scores"].key and own[0]["generation-scores"].key != own[1]["generation-scores"].key
    assert own[1]["autoencoder"].slice["seed"] == 5 and own[1]["diffusion"].slice["seed"] == 6
    assert "seed" not in own[1]["autoencoder"].slice["autoencoder"]
