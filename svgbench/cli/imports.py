"""``import``: turns a network of an official release into (part of) a run that every other command accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from svgbench.cli.console import table_of
from svgbench.cli.experiments import Device, Out, Set, Shelf
from svgbench.cli.selection import pasted
from svgbench.cli.view import DISPLAY
from svgbench.config.build import build
from svgbench.config.cards import EncoderCard
from svgbench.config.experiments import load_experiment
from svgbench.config.names import checked_name
from svgbench.config.parse import merge, nested, override
from svgbench.config.schema import RunConfig
from svgbench.errors import BadConfig, BadInput, unknown
from svgbench.lab.plan import make_plan, resolve
from svgbench.lab.record import owned
from svgbench.lab.run_plan import run_plan
from svgbench.lab.store import Store
from svgbench.lab.worker import Bench
from svgbench.machine.files import guarded, write_atomic
from svgbench.releases.settings import SETTINGS
from svgbench.shelf import read_yaml
from svgbench.tables.table import Table

CODECS = {"vavae": "va-vae-f16d32", "sdvae": "sd-vae-ema"}
"""Kinds that are codecs -> the card that opens them."""
PARTS = {"svg-autoencoder": "autoencoder", "rae-decoder": "autoencoder"} | dict.fromkeys(
    ("svg-dit", "sit", "dit", "repa", "lightningdit", "ddt"), "diffusion"
)
"""Kind -> the part of the configuration that it replaces."""


def import_(
    kind: Annotated[str, typer.Argument(help=f"{', '.join([*PARTS, *CODECS])}.")],
    checkpoint: Annotated[Path, typer.Argument(help="The release's file (.pt, .pth, .ckpt, .safetensors) or a directory of weights.")],
    name: Annotated[str, typer.Option("--name", metavar="RUN", help="Name of the run. Imports under the same name form one run.")],
    encoder: Annotated[
        str | None, typer.Option("--encoder", metavar="CARD", help="The card of the frozen encoder or codec that it was trained with.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="FILE", help="Weights of that encoder: a file of an official release.")
    ] = None,
    statistics: Annotated[
        Path | None, typer.Option("--statistics", metavar="FILE", help="The release's file of latent means and standard deviations.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="The constructor arguments of the release (YAML or JSON).")
    ] = None,
    weights_key: Annotated[
        str | None,
        typer.Option("--weights-key", metavar="KEY", help="The key of the weights in a checkpoint that holds several (raw, averaged)."),
    ] = None,
    preset: Annotated[
        str, typer.Option("--preset", metavar="PRESET", help="The preset whose images, sample counts and metrics the run is scored with.")
    ] = "paper",
    out: Out = Path("runs"),
    sets: Set = None,
    shelf: Shelf = None,
    device: Device = "auto",
) -> None:
    """Import an official checkpoint: an autoencoder, a codec or a transformer. Imports under the same name form one run."""
    if kind not in PARTS and kind not in CODECS:
        raise unknown("kind of official model", kind, [*PARTS, *CODECS])
    for path in (checkpoint, weights, statistics, config):
        if path is not None and not path.exists():
            raise BadInput(f"the file {path} does not exist; give the path of an official file.")
    _no_unused(kind, checkpoint, weights, config)
    place = out / checked_name(name, "--name") / "experiment.yaml"
    known = _kept(load_experiment(str(place), shelf).set, kind) if place.exists() else {}
    settings = merge(merge(known, SETTINGS.get(kind, {})), _settings(kind, checkpoint.resolve(), config, weights_key))
    words = {"encoder.card": encoder, "encoder.weights": weights and str(weights.resolve()),
             "latents.statistics": statistics and str(statistics.resolve())}  # fmt: skip
    for field, value in words.items():
        if value is not None:
            settings = merge(settings, nested(field, value))
    if settings.get("latents", {}).get("statistics"):
        settings = merge(settings, nested("latents.scale", None))
    if kind == "svg-autoencoder":
        inside = _inside(checkpoint, config, out / name, weights_key)
        if encoder not in (None, inside["encoder"]["card"]):
            raise BadConfig(f"{checkpoint} holds the encoder '{inside['encoder']['card']}', not '{encoder}'; leave --encoder out.")
        settings = merge(settings, inside)
    settings = merge(settings, override(sets or []))
    if "card" not in settings.get("encoder", {}):
        raise BadConfig(f"'{kind}' works on the latents of an encoder, which its file does not hold; name it: --encoder CARD.")
    resolved = resolve(build(settings, preset=preset, extra=shelf), shelf, images=False)
    plan = make_plan({name: resolved}, shelf, taken_over=True)
    waiting = _unopened(resolved, {node.stage for node in plan.nodes.values()})
    with owned(out, plan.runs[0]):
        run_plan(plan, out, Bench(out=str(out), device=device), keep_going=False, shelf=shelf, display=DISPLAY)
    with guarded(place):  # last, so that a failed import is not recorded
        content = {"asks": f"what {checkpoint.name} is worth here", "run": name, "base": f"preset-{preset}", "set": settings}
        write_atomic(place, yaml.safe_dump(content, sort_keys=False).encode())
    store = Store(out / "store")
    rows = [[node.stage, node.key[:12], _taken(store, node.stage, node.key)] for node in plan.nodes.values()]
    ready = [
        f"score it: {pasted('ablate', place, '--out', out)} --data DIR",
        f"draw samples: {pasted('sample', name, '--out', out, '--to', 'sheet.png')}",
    ]
    notes = waiting or ready
    title = f"Imported into {name}" if rows else f"Opened for {name}"
    table_of(Table(title=title, columns=["stage", "key", "weights"], rows=rows, notes=notes))


def _kept(known: dict[str, Any], kind: str) -> dict[str, Any]:
    """The settings of earlier imports under this name that still apply: a transformer replaces sampling and scale."""
    if PARTS.get(kind) != "diffusion":
        return dict(known)
    kept = {name: part for name, part in known.items() if name not in ("diffusion", "sampling", "latents")}
    statistics = known.get("latents", {}).get("statistics")
    return {**kept, "latents": {"statistics": statistics}} if statistics else kept


def _no_unused(kind: str, checkpoint: Path, weights: Path | None, config: Path | None) -> None:
    """Refuses files that this kind does not open."""
    if weights is not None and (kind in CODECS or kind == "svg-autoencoder"):
        raise BadConfig(f"'{kind}' is an encoder's file itself, so --weights {weights} has no use; leave it out.")
    if config is not None and kind in CODECS:
        raise BadConfig(
            f"'{kind}' is opened by the card '{CODECS[kind]}', which takes no --config; leave it out, or write a card with its arguments "
            "(--shelf DIR) and name it with --encoder."
        )


def _unopened(config: RunConfig, stages: set[str]) -> list[str]:
    """Opens the files for which the plan has no stage yet (a transformer before its autoencoder), so that none is accepted unread. Returns
    a sentence about what each waits for."""
    from svgbench.backends.open import open_encoder
    from svgbench.releases.open import opened
    from svgbench.releases.statistics import read_statistics

    release = config.diffusion.release
    waiting = []
    if release is not None and "imported-diffusion" not in stages:
        opened(release.kind, release.file, release.config, release.weights_key)
        waiting.append(f"{release.file} opens as '{release.kind}'; import the autoencoder that it was trained with under the same name")
    if config.latents.statistics and "imported-statistics" not in stages:
        read_statistics(config.latents.statistics)
        waiting.append(f"{config.latents.statistics} opens and is used once the autoencoder is imported")
    if config.encoder.weights and not stages & {"adoption", "imported-autoencoder"}:
        open_encoder(EncoderCard.model_validate(config.encoder.opened), config.encoder.weights, weights_key=config.encoder.weights_key)
    return waiting


def _taken(store: Store, stage: str, key: str) -> str:
    """Key of the weights in the checkpoint that an artifact was made from, if its manifest states it."""
    manifest = store.manifest(stage, key)
    weights_key = str(manifest.cost.get("weights_key", "")) if manifest else ""
    return "the file itself" if weights_key == "." else weights_key


def _settings(kind: str, checkpoint: Path, config: Path | None, key: str | None) -> dict[str, Any]:
    """The part of the configuration that names the file."""
    if kind in CODECS:
        return {"encoder": {"card": CODECS[kind], "weights": str(checkpoint), "weights_key": key}}
    release: dict[str, Any] = {"kind": kind, "file": str(checkpoint), "weights_key": key}
    if config:
        release["config"] = read_yaml(config)
    return {PARTS[kind]: {"release": release}}


def _inside(checkpoint: Path, config: Path | None, place: Path, key: str | None) -> dict[str, Any]:
    """The settings for the frozen encoder inside SVG's checkpoint: its card, and its weights, which are written to a separate file in
    ``place``."""
    from safetensors.torch import save

    from svgbench.releases.autoencoders import svg_autoencoder
    from svgbench.releases.open import read

    release = svg_autoencoder(read(checkpoint, key), read_yaml(config) if config else None, str(checkpoint))
    file = place / "encoder.safetensors"
    with guarded(file):
        place.mkdir(parents=True, exist_ok=True)
        write_atomic(file, save({name: tensor.contiguous() for name, tensor in release.encoder_weights.items()}))
    return {"encoder": {"card": release.card, "weights": str(file.resolve())}, "data": {"resolution": release.resolution}}
