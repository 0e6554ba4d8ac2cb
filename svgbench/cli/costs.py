"""``cost``: measures the cost of tokenizers on this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from svgbench.cli.completion import complete_encoders
from svgbench.cli.console import Format, tables_of
from svgbench.cli.experiments import Device, Set, Shelf, Threads
from svgbench.cli.output import Formatted
from svgbench.cli.selection import directory
from svgbench.config import cards
from svgbench.config.build import build
from svgbench.config.experiments import DEFAULT_PRESET, PRESETS
from svgbench.config.parse import merge, nested, override
from svgbench.config.sampling import TUNED, SamplingProtocol
from svgbench.config.schema import RunConfig
from svgbench.errors import BadConfig, BadInput, BadWeights, unknown
from svgbench.lab.costs import read_costs, write_cost
from svgbench.lab.store import Store
from svgbench.stages.graph import by_name
from svgbench.tables.collect import collect
from svgbench.tables.costs import LAYOUT, cost_tables
from svgbench.tables.layouts import load_layout

if TYPE_CHECKING:
    from svgbench.machine.runtime import Runtime


class _Subject(NamedTuple):
    """One tokenizer to measure."""

    name: str
    card: cards.EncoderCard
    tokenizer: Any
    side: int
    random: bool
    """Whether any of its weights are random."""
    config: RunConfig | None = None
    """Configuration of the run, if the subject is one."""
    model: Any = None
    """Transformer of the run, if it has one."""


def cost(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Cards, families, BACKEND:NAME, or runs.", autocompletion=complete_encoders)
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", callback=directory, help="Directory of the runs; results go to DIR/costs.")
    ] = Path("runs"),
    preset: Annotated[
        str | None,
        typer.Option("--preset", metavar="PRESET", help="Preset of SVG around a card. Default: the card's, else paper."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="FILE", help="The card's weights: a file or directory of an official release.")
    ] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Measure cards with random weights: cost does not depend on them. The table notes it.")
    ] = False,
    batch: Annotated[int, typer.Option("--batch", metavar="N", min=1, help="Batch size for throughput and peak memory.")] = 64,
    repetitions: Annotated[int, typer.Option("--repetitions", metavar="N", min=6, help="Timed repetitions of each call.")] = 20,
    warm_up: Annotated[int, typer.Option("--warm-up", metavar="N", min=1, help="Untimed calls before the timed ones.")] = 10,
    precision: Annotated[str, typer.Option("--precision", metavar="NAME", help="fp32 or bf16 (autocast).")] = "fp32",
    sets: Set = None,
    shelf: Shelf = None,
    device: Device = "auto",
    threads: Threads = None,
    format: Formatted = Format.auto,
) -> None:
    """Measure parameters, multiply-adds, latency at batch 1, throughput and peak memory of encoder and decoder separately, in the layout of
    the paper's table 7. A card of features is measured alone and inside SVG. For a run, the time of a sample is measured too."""
    if precision not in ("fp32", "bf16"):
        raise BadConfig(f"--precision {precision} is unknown; use fp32 or bf16.")
    if weights is not None and (random_weights or len(names) > 1):
        raise BadInput("--weights FILE belongs to one card; give one name and leave out --random-weights.")
    known = {place.parent.name for place in out.glob("*/run.json")}
    if weights is not None and names[0] in known:
        raise BadInput(f"--weights: '{names[0]}' is a run, which has its own weights; give a card, or leave out --weights.")
    found = {name: None if name in known else _card(name, preset, shelf, known) for name in names}
    measured = [card for card in found.values() if card is not None]
    if not measured and (preset or random_weights):
        raise BadInput("--preset and --random-weights belong to cards, and only runs are named; leave them out.")
    if sets and not any(card.kind == "features" for card in measured):
        raise BadInput("--set changes the autoencoder around a card of features, and none is named; leave it out.")
    from svgbench.machine.runtime import Runtime
    from svgbench.stages.tokenizer_cost import Terms, sampling_cost, tokenizer_cost

    runtime = Runtime(device=device, threads=threads).start()
    terms = Terms(batch=batch, repetitions=repetitions, warm_up=warm_up, precision=precision)  # type: ignore[arg-type]
    written = []
    for name, card in found.items():
        subjects = [_run(out, name, runtime)] if card is None else _of_card(card, preset, sets, shelf, weights, random_weights, runtime)
        for subject in subjects:
            scores = tokenizer_cost(subject.tokenizer, subject.side, terms, runtime)
            if subject.model is not None and subject.config is not None:
                scores += sampling_cost(subject.model, _sampling(subject.config), terms, runtime)
            about: dict[str, Any] = {"encoder": subject.card.name, "family": subject.card.family, "kind": subject.card.kind}
            about |= {"random_weights": subject.random, "host": runtime.describe()}
            written.append(write_cost(out, subject.name, about, scores))
    if format is Format.json:
        sys.stdout.write(json.dumps([content for path, content in read_costs(out).items() if path in written], indent=1) + "\n")
    else:
        tables_of(cost_tables(out, load_layout(LAYOUT)), format)


def _card(name: str, preset: str | None, shelf: Path | None, runs: set[str]) -> cards.EncoderCard:
    """The card of this name. Raises UnknownName, with the closest cards and runs, when the name is neither."""
    try:
        return cards.find(name, preset or DEFAULT_PRESET, shelf)
    except BadInput:
        if ":" in name:
            raise
        raise unknown("card or run", name, [*cards.load_cards(shelf), *cards.FAMILIES, *runs]) from None


def _of_card(
    card: cards.EncoderCard, preset: str | None, sets: list[str] | None, shelf: Path | None, weights: Path | None, random: bool,
    runtime: Runtime,
) -> list[_Subject]:  # fmt: skip
    """The card itself, and for a card of features also SVG around it, with untrained residual encoder and decoder."""
    from svgbench.backends.open import open_encoder
    from svgbench.nets.tokenizer import Codec
    from svgbench.stages import tokenizers

    place = runtime.torch_device
    try:
        encoder = open_encoder(card, weights, place, random_weights_seed=0 if random else None)
    except BadWeights as error:
        raise BadWeights(f"{str(error).rstrip('.')}; or measure the architecture with --random-weights.") from None
    side = card.pixels.size
    if card.kind == "codec":
        return [_Subject(card.name, card, Codec(encoder), side, random)]
    preset = preset or (card.preset if card.preset in PRESETS else "paper")
    config = build(merge(nested("encoder.card", card.name), override(sets or [])), preset=preset, extra=shelf)
    svg = tokenizers.build(encoder, config.autoencoder, config.data.resolution, place).eval()
    if svg.alignment is not None:
        svg.alignment.leave()
    return [_Subject(card.name, card, encoder, side, random), _Subject(f"SVG({card.name})", card, svg, config.data.resolution, True)]


def _run(out: Path, name: str, runtime: Runtime) -> _Subject:
    """The tokenizer of a finished run, and its transformer if it has one."""
    from svgbench.stages.tokenizers import open_tokenizer
    from svgbench.stages.transformers import open_transformer

    record, store, places = collect(out, [name])[0], Store(out / "store"), {}
    for stage in record.about["stages"]:
        provided = by_name(stage["stage"]).provides or stage["stage"]
        if provided in ("autoencoder", "diffusion"):
            store.verify(stage["stage"], stage["key"])
            places[provided] = store.place(stage["stage"], stage["key"])
    if "autoencoder" not in places:
        raise BadInput(f"run '{name}' has no finished autoencoder stage; run its command again first.")
    config = RunConfig.model_validate(record.config())
    tokenizer = open_tokenizer(places["autoencoder"], runtime)
    tokenizer.frozen.precision = None  # measured in that of the command
    model = open_transformer(places["diffusion"], runtime)[0] if "diffusion" in places else None
    return _Subject(name, tokenizer.frozen.card, tokenizer, config.data.resolution, False, config, model)


def _sampling(config: RunConfig) -> SamplingProtocol:
    """The run's sampling settings at its largest number of steps, without guidance, in the precision of the command. A tuned shift is
    replaced by 1, because it does not change the cost."""
    part = config.sampling.model_dump()
    shift = 1.0 if part["shift"] == TUNED else part["shift"]
    replaced = {"steps": max(part["steps"]), "guidance": 1.0, "against": "null", "shift": shift, "precision": "fp32"}
    return SamplingProtocol.of({**part, **replaced})
