"""The plan of a set of runs: nodes with equal keys are merged and ordered so that they can be executed. Writes nothing. No torch."""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from svgbench.config import cards
from svgbench.config.derived import candidates as tuning_candidates
from svgbench.config.derived import start_of
from svgbench.config.parse import merge, nested
from svgbench.config.records import key_of
from svgbench.config.sampling import TUNED
from svgbench.config.schema import DRAWN, RunConfig
from svgbench.config.scoring import Scores
from svgbench.errors import BadConfig, BadWeights
from svgbench.lab.digests import covers, digests_of
from svgbench.metrics import judges
from svgbench.stages import graph, tuning

if TYPE_CHECKING:
    from svgbench.images.dense_sets import Kind

SHIPPED = {"features": "shapes-cnn", "pairs": "shapes-lpips"}
"""Kind -> the judge that needs no weights file."""


@dataclass(frozen=True)
class Node:
    """One execution of a stage; nodes with equal keys are the same work."""

    stage: str
    key: str
    slice: dict[str, Any]
    """The slice that the worker receives."""
    identity: dict[str, Any]
    """The slice as hashed in the key, with digests instead of paths."""
    inputs: dict[str, str]
    """Name of an input -> key of the node that computes it."""
    cell: dict[str, Any] = field(default_factory=dict)
    """Dotted list field -> its entry for this node; includes the entries of its inputs."""


Why = Literal["tuning", "start"]
"""Why a run needs nodes of another configuration: to tune its shift, or to continue a training."""


@dataclass(frozen=True)
class Behind:
    """Another configuration that a run needs, and those of its nodes that are not also in the run's own configuration."""

    why: Why
    config: RunConfig
    nodes: tuple[str, ...]
    """Keys, in order."""


@dataclass(frozen=True)
class Run:
    """A named configuration and the nodes that compute its numbers."""

    name: str
    config: RunConfig
    nodes: tuple[str, ...]
    """Keys, in order, including nodes of other configurations."""
    behind: tuple[Behind, ...] = ()
    """The other configurations that it needs; each node is in at most one of them."""

    def reason(self, key: str) -> Why | None:
        """Why the run has a node of another configuration; None for its own nodes."""
        return next((part.why for part in self.behind if key in part.nodes), None)


@dataclass(frozen=True)
class Plan:
    """The nodes of a set of runs."""

    nodes: dict[str, Node]
    """By key, in an order in which they can be executed."""
    runs: tuple[Run, ...]

    def repeated(self) -> dict[str, str]:
        """Run -> the first run with the same nodes: their configurations differ only in unused settings."""
        first: dict[frozenset[str], str] = {}
        firsts = {run.name: first.setdefault(frozenset(run.nodes), run.name) for run in self.runs}
        return {name: other for name, other in firsts.items() if name != other}

    def of(self, names: Container[str]) -> Plan:
        """The part of the plan that these runs need."""
        runs = tuple(run for run in self.runs if run.name in names)
        needed = {key for run in runs for key in run.nodes}
        return Plan({key: node for key, node in self.nodes.items() if key in needed}, runs)


def shown_cell(cell: Mapping[str, Any]) -> dict[str, Any]:
    """A cell as shown to users: the last part of each field, without ``trained`` at the end of the training."""
    return {path.rsplit(".", 1)[-1]: value for path, value in cell.items() if (path, value) != ("sampling.trained", 1.0)}


class _Assumed(dict[tuple[str, ...], str]):
    """Placeholder identities of judges, for plans without their files."""

    def __contains__(self, judge: object) -> bool:
        return True

    def __missing__(self, judge: tuple[str, ...]) -> str:
        return f"assumed:{judge}"


def make_plan(configs: Mapping[str, RunConfig], extra: Path | None = None, *, taken_over: bool = False, assumed: bool = False) -> Plan:
    """The plan of named configurations with identities filled in (``resolve``); ``taken_over``: only stages that import released files;
    ``assumed``: only for estimates: the judges' weights need not exist, and the keys match no artifact."""
    nodes: dict[str, Node] = {}
    runs = []
    judged: dict[tuple[str, ...], str] = _Assumed() if assumed else {}
    check_tuning_seeds(configs.values())
    for name, config in configs.items():
        made = _made(config, extra, taken_over=taken_over, judged=judged)
        for node in made.nodes:
            nodes.setdefault(node.key, node)
        runs.append(Run(name, config, tuple(dict.fromkeys(node.key for node in made.nodes)), made.parts()))
    return Plan(nodes, tuple(runs))


def check_tuning_seeds(configs: Iterable[RunConfig]) -> None:
    """Raises BadConfig if a tuning seed is also the seed of a run: a shift must not be tuned on numbers that a table shows."""
    known = list(configs)
    seeds = {config.seed for config in known}
    for part in (config.sampling.tuning for config in known if config.sampling.shift == TUNED):
        if part is not None and part.seed in seeds:
            raise BadConfig(
                f"sampling.tuning.seed {part.seed} is among the seeds of the runs, and a shift must not be tuned on numbers that a table "
                "shows; give another one."
            ).about("sampling.tuning.seed")


def nodes_of(
    config: RunConfig, extra: Path | None = None, *, taken_over: bool = False, judged: dict[tuple[str, ...], str] | None = None
) -> list[Node]:
    """The nodes of one run in the order of the stage table, after those of other configurations that it needs; ``taken_over``: only stages
    that import released files; ``judged``: a cache of the identities of judging networks, shared by the runs of a plan."""
    return _made(config, extra, taken_over=taken_over, judged={} if judged is None else judged).nodes


class _Made(NamedTuple):
    """The nodes of a run."""

    nodes: list[Node]
    """All nodes; an input is before the nodes that need it."""
    own: list[Node]
    """The nodes of the run's own configuration."""
    provided: dict[str, list[Node]]
    """``own`` by the names that other stages need."""
    firsts: dict[str, list[Node]]
    """The same, but from the first row that provides a name, not from a later row that replaces it (``graph.Stage.first``)."""
    behind: list[tuple[Why, RunConfig, list[Node]]]
    """Each other configuration that the run needs, with its nodes; some may also be in ``own``."""

    def parts(self) -> tuple[Behind, ...]:
        """``behind`` without the run's own nodes and without duplicates."""
        seen = {node.key for node in self.own}
        parts = []
        for why, config, nodes in self.behind:
            keys = tuple(dict.fromkeys(node.key for node in nodes if node.key not in seen))
            seen.update(keys)
            parts.append(Behind(why, config, keys))
        return tuple(parts)


def _made(config: RunConfig, extra: Path | None, *, taken_over: bool, judged: dict[tuple[str, ...], str]) -> _Made:
    kind = cards.find(config.encoder.card, config.preset, extra).kind
    facts = graph.facts(config, kind)
    plain = config.model_dump(mode="json")
    if not taken_over and not config.data.drawn and not isinstance(judged, _Assumed):
        _check_judges(plain, facts)
    provided: dict[str, list[Node]] = {}
    firsts: dict[str, list[Node]] = {}
    own: list[Node] = []
    start, behind = _started(config, extra, judged=judged) if not taken_over else ({}, [])
    candidates = _candidates(config, extra, behind, judged=judged) if not taken_over else {}
    for stage in graph.STAGES:
        if not facts[stage.when] or (taken_over and not (stage.taken_over and all(need in provided for need in stage.needs))):
            continue
        made = []
        choices = [(firsts if need in stage.first else provided)[need] for need in stage.needs]
        if stage.name == "overview":  # one picture per run, from the last entry of each list
            choices = [options[-1:] for options in choices]
        more = {name: provided[name][0] for name in stage.also if name in provided}
        more |= {"start": start[stage.start]} if stage.start else candidates if stage.name == "shift-choice" else {}
        for inputs in itertools.product(*choices):
            for entries in itertools.product(*(graph.field(plain, path) for path in stage.each)):
                cell = dict(zip(stage.each, entries, strict=True))
                made.append(node_of(stage, plain, dict(zip(stage.needs, inputs, strict=True)) | more, cell, judged))
        provided[stage.provides or stage.name] = made
        firsts.setdefault(stage.provides or stage.name, made)
        own += made
    nodes = {node.key: node for _, _, part in behind for node in part}
    nodes |= {node.key: node for node in own if node.key not in nodes}
    return _Made(list(nodes.values()), own, provided, firsts, behind)


def _started(
    config: RunConfig, extra: Path | None, *, judged: dict[tuple[str, ...], str]
) -> tuple[dict[str, Node], list[tuple[Why, RunConfig, list[Node]]]]:
    """The nodes that a continued run starts from, by the names that they provide, and all nodes that these need."""
    before = start_of(config)
    if before is None:
        return {}, []
    made = _made(before, extra, taken_over=False, judged=judged)
    ends: dict[str, Node] = {name: made.firsts[name][0] for name in ("autoencoder", "diffusion") if name in made.firsts}
    return ends, [("start", before, _upstream(made.nodes, ends.values()))]


def _candidates(
    config: RunConfig, extra: Path | None, behind: list[tuple[Why, RunConfig, list[Node]]], *, judged: dict[tuple[str, ...], str]
) -> dict[str, Node]:
    """Name of an input -> node with the scores of a candidate of a tuned shift; adds the nodes that they need to ``behind``."""
    ends = {}
    for shift, one in tuning_candidates(config).items():
        made = _made(one, extra, taken_over=False, judged=judged)
        ends[tuning.candidate(shift)] = made.provided["generation-scores"][0]
        behind.append(("tuning", one, _upstream(made.nodes, made.provided["generation-scores"])))
    return ends


def _upstream(nodes: list[Node], ends: Iterable[Node]) -> list[Node]:
    """``ends`` and all nodes that they need, in the order of ``nodes``."""
    known, wanted, waiting = {node.key: node for node in nodes}, set(), [node.key for node in ends]
    while waiting:
        key = waiting.pop()
        if key not in wanted:
            wanted.add(key)
            waiting += known[key].inputs.values()
    return [node for node in nodes if node.key in wanted]


def _check_judges(plain: dict[str, Any], facts: Mapping[str, bool]) -> None:
    """Raises BadWeights, listing every judging network for photographs whose weights file is not set, if a key needs one of them. If only
    LPIPS is missing, the plan is made, but ``lab.preflight`` raises an error before it runs."""
    wanted, instead, fields, needed = [], [], [], False
    for name, kind, judge, file, weights in graph.judging(plain, trains_autoencoder=facts["trains-autoencoder"]):
        if file or judges.trained_on(kind, judge) or name == "scores.perceptual":  # the LPIPS score is then left out
            continue
        wanted.append(f"'{judge}' needs its weights file{judges.source_of(kind, judge)}: --set {weights}=FILE")
        instead.append(f"--set {name}={SHIPPED[kind]}")
        fields.append(weights)
        needed = needed or kind == "features"
    if not needed:
        return
    if plain["scores"]["perceptual"] == "lpips" and not plain["scores"]["lpips_weights"]:
        wanted.append("LPIPS among the scores takes the same VGG16 file: --set scores.lpips_weights=FILE")
        instead.append(f"--set scores.perceptual={SHIPPED['pairs']}")
    raise BadWeights(
        f"{plain['data']['source']}: {'; '.join(wanted)}; or choose the shipped networks, which were trained on drawn images and "
        f"do not know photographs, as every table then notes: {' '.join(instead)}."
    ).about(fields[0])


def node_of(
    stage: graph.Stage,
    config: dict[str, Any],
    inputs: dict[str, Node],
    cell: dict[str, Any],
    judged: dict[tuple[str, ...], str] | None = None,
) -> Node:
    """The node of a stage, given a run's configuration as JSON data, its inputs and one entry per list field (``cell``)."""
    judged = {} if judged is None else judged
    part: dict[str, Any] = {}
    marks = graph.MARKS if stage.scores else ()
    left_out = graph.UNGUIDED_LEFT_OUT if cell.get("sampling.guidance") == 1 else frozenset()
    for path in (*stage.slice, *marks):
        if path not in left_out and graph.holds(config, path):
            part = merge(part, nested(path, graph.field(config, path)))
    if stage.own_seed is not None and graph.holds(config, stage.own_seed):
        owner, _, name = stage.own_seed.partition(".")
        kept = {owner: {key: value for key, value in part[owner].items() if key != name}} if owner in part else {}
        part = {**part, **kept, "seed": graph.field(config, stage.own_seed)}
    for path, value in cell.items():
        part = merge(part, nested(path, value))
    if cell.get("sampling.guidance") == 1:
        for path, value in graph.UNGUIDED.items():
            part = merge(part, nested(path, value))
    identity = part
    for path, digest in digests_of(stage, config, judged).items():
        identity = merge(identity, nested(path, digest))
    for path in graph.FOLDERS:
        if covers(stage, path) and graph.field(config, path).get("source") not in (None, *DRAWN):
            identity = merge(identity, nested(f"{path}.source", "folder"))
    for path in graph.UNKEYED:
        if covers(stage, path) and graph.field(config, path) is not None:
            identity = merge(identity, nested(path, None))
    keys = {name: node.key for name, node in inputs.items()}
    key = key_of(stage.name, stage.version, identity, keys)
    behind = ("start", "shift-choice")  # their cells belong to other runs
    passed = [node for name, node in inputs.items() if name not in behind and stage.name != "shift-choice"]
    whole = {name: value for node in passed for name, value in node.cell.items()} | cell
    return Node(stage.name, key, part, identity, keys, whole)


def resolve(config: RunConfig, extra: Path | None = None, *, images: bool = True, seen: dict[str, str] | None = None) -> RunConfig:
    """The configuration with identities filled in: of the card and its weights, and of the images (unless ``images`` is false).
    ``seen``: a cache of image identities, shared by the cells of a grid."""
    card = cards.card_of(config.encoder, config.preset, extra)
    weights = Path(config.encoder.weights) if config.encoder.weights else None
    data = config.data
    if images:
        from svgbench.images.sources import identity as images_identity  # numpy

        seen = {} if seen is None else seen
        data_text = data.model_dump_json()
        if data_text not in seen:
            seen[data_text] = images_identity(data)
        data = data.model_copy(update={"identity": seen[data_text]})
        for step in config.continued or ():  # raises an error for packed images, which have one resolution
            images_identity(config.data.model_copy(update={"resolution": step.resolution}))
        if data.limit:
            _check_limit(config, data.limit)
        config = config.model_copy(update={"scores": _with_folders(config.scores, seen)})
    opened = card.model_dump(mode="json")
    encoder = config.encoder.model_copy(update={"identity": cards.identity(card, weights, config.encoder.weights_key), "opened": opened})
    config = config.model_copy(update={"data": data, "encoder": encoder})
    return _with_teacher(config, extra) if config.diffusion.representation.weight else config


def _check_limit(config: RunConfig, limit: int) -> None:
    """Raises BadConfig, before anything is trained, for a limit that is too small for a score."""
    from svgbench.images.sources import counted  # numpy

    *_, classes = counted(config.data)
    needs = {
        f"{classes} classes": classes, f"{config.scores.probe.neighbours} neighbours": config.scores.probe.neighbours,
        f"precision and recall by neighbour {config.scores.neighbours}": config.scores.neighbours + 1,
    }  # fmt: skip
    most = max(needs, key=lambda name: needs[name])
    if limit < needs[most]:
        raise BadConfig(f"data.limit {limit} is too few for {most}; give {needs[most]} or more.").about("data.limit")


def _with_folders(scores: Scores, seen: dict[str, str]) -> Scores:
    """``scores`` with the identities of the dense prediction data sets; ``seen``: a cache shared by the cells of a grid."""
    segmentation = scores.segmentation.source if scores.segmentation.enabled else None
    sources: dict[Kind, str | None] = {"segmentation": segmentation, "depth": scores.depth.source}
    folders = {name: source for name, source in sources.items() if source is not None}
    if not folders:
        return scores
    from svgbench.images import dense_sets  # numpy

    for name, source in folders.items():
        if f"{name} {source}" not in seen:
            seen[f"{name} {source}"] = dense_sets.open_set(name, source).identity
    identities = {name: {"identity": seen[f"{name} {source}"]} for name, source in folders.items()}
    return scores.model_copy(update={str(name): getattr(scores, name).model_copy(update=one) for name, one in identities.items()})


def _with_teacher(config: RunConfig, extra: Path | None) -> RunConfig:
    """The configuration with the identity of REPA's teacher."""
    part = config.diffusion.representation
    card = cards.card_of(part.encoder, config.preset, extra)
    if card.kind != "features":
        raise BadConfig(f"diffusion.representation.encoder.card '{card.name}' gives no features; name an encoder such as dinov2.")
    identity = cards.identity(card, Path(part.encoder.weights) if part.encoder.weights else None, part.encoder.weights_key)
    encoder = part.encoder.model_copy(update={"identity": identity, "opened": card.model_dump(mode="json")})
    part = part.model_copy(update={"encoder": encoder})
    return config.model_copy(update={"diffusion": config.diffusion.model_copy(update={"representation": part})})
