"""Records of runs that never ran: the only fakes of these tests. Numbers are given by the test, all else is what a tiny run would say."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import yaml

from svgbench.config.records import RUN_FORMAT, Manifest, Protocol, SamplingProtocol, key_of, seal, unseal
from svgbench.lab.store import Store, files_of
from svgbench.machine.files import sha256_of

PLAIN = Protocol(measure="p", images="val", version="v1")


def sampled(steps=25, guidance=1.0, **more):
    """The protocol of a number of samples."""
    way = SamplingProtocol(**{"sampler": "euler", "steps": steps, "guidance": guidance, "shift": 0.15, **more})
    return Protocol(measure="fd", images="samples", version="v1", count=10, sampling=way)


def score(run="a", metric="rfid", value=1.0, seed=0, made=PLAIN, **more):
    """One row of ``scores.json``."""
    way = made.sampling
    row = {"run": run + (f".seed-{seed}" if seed else ""), "metric": metric, "value": value, "low": value - 0.5, "high": value + 0.5}
    row |= {"encoder": "dinov3-tiny", "family": "dinov3", "align": "frozen", "residual_channels": 8, "preset": "tiny", "seed": seed}
    row |= {
        "count": 10,
        "steps": way and way.steps,
        "guidance": way and way.guidance,
        "images_seen": 1000,
        "seconds": 3.0,
        "key": f"k{seed}",
    }
    row |= {"protocol": made.text, "protocol_fields": made.model_dump(mode="json"), "detail": {"interval": "a bootstrap"}}
    return row | more


def gfid(run, value, *, steps=25, guidance=1.0, seed=0, images_seen=1000, **way):
    """A gFID with its way of sampling."""
    return score(run, "gfid", value, seed, sampled(steps, guidance, **way), images_seen=images_seen)


def write(place, scores, failures=None, *, family="dinov3", seconds=3.0, device="cpu", config=None):
    """The directory of a run."""
    place.mkdir(parents=True)
    host = {"device": device, "device_name": "a device", "threads": 2, "ranks": 1}
    seen = scores[0]["images_seen"] if scores else 1000
    cost = {"images_seen": seen, "images_per_second": 50.0, "utilisation": 0.5, "flops_per_image": 1e9, "peak_memory_bytes": 2e9}
    key = hashlib.sha256(place.name.encode()).hexdigest()
    stage = {"stage": "diffusion", "key": key, "cell": {}, "seconds": seconds, "cost": cost | {"parameters": 1_300_000}, "host": host}
    about = {"run": place.name, "encoder": f"{family}-tiny", "family": family, "kind": "features"}
    about |= {"stages": [stage], "failures": failures or {}}
    (place / "scores.json").write_text(json.dumps(scores))
    if config is not None:
        (place / "config.yaml").write_text(yaml.safe_dump(config))
    seal_record(place, about)


def seal_record(place, about):
    """``run.json`` with the digests of what lies beside it, as a run writes it."""
    files = {name: sha256_of(place / name) for name in ("config.yaml", "scores.json", "overview.png") if (place / name).exists()}
    (place / "run.json").write_bytes(seal({**about, "format": RUN_FORMAT, "files": files}))


def write_samples(out, run, steps, guidance, *, side=8, count=10, trained=None):
    """Samples of a run in the store, and the stage that says so."""
    slice_ = {"run": run, "steps": steps, "guidance": guidance, "trained": trained}
    store, key = Store(out / "store"), key_of("samples", 1, slice_, {})
    rng = np.random.default_rng(steps if trained is None else round(1000 * trained))
    with store.claim("samples", key) as partial:
        np.save(partial / "samples.npy", rng.integers(0, 255, (count, 3, side, side), np.uint8))
        np.save(partial / "labels.npy", np.arange(count) % 3)
        files, sizes = files_of(partial)
        manifest = Manifest(
            stage="samples", version=1, key=key, slice=slice_, inputs={}, files=files, sizes=sizes, seconds=1.0, finished="now"
        )  # fmt: skip
        store.commit(manifest, partial)
    about = unseal((out / run / "run.json").read_bytes(), RUN_FORMAT)
    cell = {"sampling.steps": steps, "sampling.guidance": guidance} | ({"sampling.trained": trained} if trained else {})
    entry = {"stage": "samples", "key": key, "manifest": store.digest("samples", key), "cell": cell, "seconds": 1.0, "cost": {}, "host": {}}
    about["stages"].append(entry)
    seal_record(out / run, about)
