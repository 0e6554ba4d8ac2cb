"""Selects the weights in a checkpoint: prefers averaged to raw weights, and removes prefixes of training frameworks.

A checkpoint may contain several sets of weights: raw ones, one or more averages (EMA), other networks. Each set is a candidate with a key,
its dotted path. A single average of the raw weights is selected. If no rule applies, the error lists the keys, and ``--weights-key``
selects one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from svgbench.config.weight_files import is_average
from svgbench.errors import BadWeights, closest
from svgbench.weights.kinds import looks_like
from svgbench.weights.names import COUNTERS, Names, count, numbers_left_out, plain, roots, unwrapped
from svgbench.weights.torch_files import StandIn, Stored

RAW = ("state_dict", "model", "module", "net", "network", "model_state_dict", "params", "weights", "generator", "")
"""Usual keys of raw weights; the empty one is the checkpoint itself."""
TRAINING = re.compile(r"^(opt|lr|sched|scaler|rng|random|loops|args$|config|cfg|hparams|hyper|amp|grad_|loss_scaler)", re.IGNORECASE)
"""Keys of training state other than weights."""
MOMENTS = {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "acc_delta", "exp_inf", "n_averaged"}
"""Names of an optimiser's tensors."""
DEPTH = 6
"""Largest depth at which weights are searched."""
VISITS = 20_000
"""Largest number of mappings and lists that are searched."""


@dataclass(frozen=True)
class Candidate:
    """One set of weights."""

    path: tuple[str, ...]
    tensors: Names
    averaged: bool = False

    @property
    def key(self) -> str:
        """The dotted path, as in ``--weights-key``."""
        return ".".join(self.path) or "."

    @property
    def last(self) -> str:
        """The last part of the path."""
        return self.path[-1] if self.path else ""

    @property
    def shown(self) -> str:
        """The key, and whether it is an average."""
        return f"'{self.key}'" + (" (averaged)" if self.averaged else "")


@dataclass(frozen=True)
class Selection:
    """The selected weights."""

    tensors: Names
    key: str = "."
    note: str = ""
    """A sentence about the selection for the user; empty if there was no choice."""


@dataclass
class _Scan:
    """The result of searching a checkpoint."""

    candidates: list[Candidate] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    """Descriptions of averages that cannot be read: lists without names, objects of unknown classes."""
    objects: list[str] = field(default_factory=list)
    """Classes of objects that contain tensors."""
    visits: int = 0
    """Number of mappings and lists searched; a checkpoint may contain itself."""


def choose(content: Any, path: Path, key: str | None = None) -> Selection:
    """Selects the weights in the content of a checkpoint, those of ``key`` if given. Raises BadWeights, whose message begins with
    ``path``, when there are none or no rule selects one set."""
    scan = _Scan()
    if isinstance(content, StandIn) and not content:
        raise BadWeights(f"{path} contains a pickled object ({content.foreign}), which is not loaded; save only its state dict.")
    if not isinstance(content, Mapping):
        single = isinstance(content, Tensor | Stored)
        description = "one tensor without a name" if single else f"an object of type {type(content).__name__}, not named tensors"
        raise BadWeights(f"{path} contains {description}; give a file with a state dict.")
    _walk(content, (), path, scan)
    candidates = _weights_among(scan.candidates)
    candidates = [one for candidate in candidates for one in _split(candidate, path)]
    candidates = _once([replace(one, tensors=plain(one.tensors)) for one in candidates if one.tensors])
    if key is not None:
        return _by_key(candidates, key, path)
    if not candidates:
        if scan.objects:
            raise BadWeights(f"{path} has its tensors in objects ({scan.objects[0]}), which are not loaded; save only a state dict.")
        raise BadWeights(f"{path} contains no named tensors; give a file with a state dict.")
    return _best(_teachers(candidates), path, scan)


def average_beside(content: Any, path: Path, names: Names) -> bool:
    """Whether the content of another file includes an average of the weights with these names."""
    scan = _Scan()
    if isinstance(content, Mapping):
        _walk(content, (), path, scan)
    return bool(scan.closed) or any(2 * len(one.tensors.keys() & names.keys()) > len(one.tensors) for one in scan.candidates)


def _walk(node: Any, path: tuple[str, ...], file: Path, scan: _Scan) -> None:
    """Collects every mapping with tensors."""
    scan.visits += 1
    if scan.visits > VISITS:
        raise BadWeights(f"{file} has more than {VISITS:,} nested mappings, more than any checkpoint; save its state dict alone.")
    if isinstance(node, list | tuple):
        if path and is_average(".".join(path)) and node and all(isinstance(one, Tensor | Stored) for one in node):
            scan.closed.append(f"'{'.'.join(path)}' is a list of {len(node)} tensors without names")
        if not any(isinstance(one, Mapping) for one in node) or len(node) > 64:
            return
        node = {str(number): one for number, one in enumerate(node)}
    tensors = {str(name): value for name, value in node.items() if isinstance(value, Tensor | Stored)}
    unreadable = {str(name): value.foreign for name, value in node.items() if isinstance(value, StandIn) and _tensor_like(value)}
    if unreadable:
        name, kind = next(iter(unreadable.items()))
        raise BadWeights(f"{file} holds {len(unreadable)} tensors of an unsupported class ({name}: {kind}); save plain tensors.")
    if tensors:
        scan.candidates.append(Candidate(path, tensors))
    for name, value in node.items():
        inner = (*path, str(name))
        if isinstance(value, StandIn) and not _has_tensors(dict(value)) and _has_tensors((value.state, value.args)):
            scan.objects.append(value.foreign)
            if is_average(str(name)):
                scan.closed.append(f"'{'.'.join(inner)}' is an object ({value.foreign})")
        elif TRAINING.match(str(name)):
            _averages_without_names(value, inner, scan)
        elif isinstance(value, Mapping | list | tuple) and len(inner) < DEPTH:
            _walk(value, inner, file, scan)


def _averages_without_names(node: Any, path: tuple[str, ...], scan: _Scan) -> None:
    """Records averages that some callbacks store with the optimiser's state, as lists in the order of its parameters."""
    for number, state in enumerate(node if isinstance(node, list | tuple) else [node]):
        for name, value in state.items() if isinstance(state, Mapping) else ():
            if is_average(str(name)) and isinstance(value, list | tuple) and any(isinstance(one, Tensor | Stored) for one in value):
                scan.closed.append(f"'{'.'.join(path)}.{number}.{name}' is a list of {len(value)} tensors without names")


def _tensors_in(node: Any, depth: int = DEPTH, seen: set[int] | None = None) -> Iterator[Any]:
    """Tensors anywhere inside."""
    seen = set() if seen is None else seen
    if isinstance(node, Tensor | Stored):
        yield node
    elif depth and isinstance(node, Mapping | list | tuple) and id(node) not in seen:
        seen.add(id(node))
        inner = list(node.values()) if isinstance(node, Mapping) else list(node)
        inner += [node.state, node.args] if isinstance(node, StandIn) else []
        for one in inner:
            yield from _tensors_in(one, depth - 1, seen)


def _has_tensors(node: Any) -> bool:
    return any(True for _ in _tensors_in(node))


def _tensor_like(value: StandIn) -> bool:
    return value.foreign.startswith(("torch._utils._rebuild", "torch._tensor.", "torch.distributed.tensor"))


def _weights_among(candidates: list[Candidate]) -> list[Candidate]:
    """The candidates without optimiser states and without single numbers beside the weights."""
    remaining = [one for one in candidates if not set(one.tensors) <= MOMENTS]
    large = [one for one in remaining if any(count(value) > 1 for value in one.tensors.values())]
    remaining = large or remaining
    if len(remaining) > 1 and not remaining[0].path and sum(count(value) > 1 for value in remaining[0].tensors.values()) < 2:
        remaining = remaining[1:]  # one tensor beside the state dicts, such as class weights
    paths = {one.path for one in candidates}
    averaging = {one.path[:-1] for one in candidates if one.last == "averaging_state"}
    return [  # Lightning's WeightAveraging stores the average as ``state_dict`` and the raw weights as ``current_model_state``
        replace(
            one,
            averaged=any(is_average(key) for key in one.path)
            or (one.last == "state_dict" and one.path[:-1] in averaging and (*one.path[:-1], "current_model_state") in paths),
        )
        for one in remaining
    ]


def _split(candidate: Candidate, file: Path) -> Iterator[Candidate]:
    """Splits a state dict that contains raw weights and averages under different prefixes."""
    tensors = unwrapped(candidate.tensors, file)
    parts = roots(tensors)
    averages = [root for root in parts if root and is_average(root) and _is_average_of(parts[root], root, tensors)]
    if not averages and {"student", "teacher"} <= parts.keys():
        averages = ["teacher"]
    if candidate.averaged and len(candidate.path) <= 2 * DEPTH and all(root.isdigit() for root in parts):
        for root, inner in parts.items():
            yield from _split(Candidate((*candidate.path, root), inner, averaged=True), file)
        return
    if not averages or len(candidate.path) > 2 * DEPTH:
        yield replace(candidate, tensors=tensors)
        return
    rest = {name: value for name, value in tensors.items() if name.partition(".")[0] not in averages}
    for root in averages:
        inner = numbers_left_out(parts[root])
        if rest and all(name in COUNTERS for name in inner):
            continue
        overlaid = _without_dots(inner, rest)
        if overlaid is not None:
            yield Candidate((*candidate.path, root), overlaid, averaged=True)
        else:
            yield from _split(Candidate((*candidate.path, root), inner, averaged=True), file)
    rest = numbers_left_out(rest)
    others = roots(rest)
    if len(others) == 1 and "" not in others:
        ((root, inner),) = others.items()
        yield Candidate((*candidate.path, root), inner)
    elif rest:
        yield Candidate(candidate.path, rest, averaged=False)


def _is_average_of(average: Names, root: str, tensors: Names) -> bool:
    """Whether the tensors under ``root`` are an average of the other tensors, or a complete network; a part of a network may also have
    such a name."""
    rest = {name: value for name, value in tensors.items() if name.partition(".")[0] != root}
    if not rest or all(name in COUNTERS for name in average) or _without_dots(numbers_left_out(average), rest) is not None:
        return True
    beside = {(tail, tuple(value.shape)) for name, value in rest.items() for tail in _tails(name)}
    matched = sum(any((tail, tuple(value.shape)) in beside for tail in _tails(name)) for name, value in average.items())
    return 2 * matched >= len(average) or looks_like(plain(average)) is not None


def _tails(name: str) -> list[str]:
    """The name, and the name without its first one, two and three parts."""
    words = name.split(".")
    return [".".join(words[count:]) for count in range(min(4, len(words)))]


def _without_dots(average: Names, raw: Names) -> Names | None:
    """Replaces raw tensors by their averages from LDM's LitEma, whose names have no dots and belong to the entire module or to its
    ``model``; None if the names do not match."""
    if not average or any("." in name for name in average):
        return None
    for root in ("model.", ""):
        full = {name.removeprefix(root).replace(".", ""): name for name in raw if name.startswith(root)}
        if average.keys() <= full.keys():
            return {**raw, **{full[short]: value for short, value in average.items()}}
    return None


def _teachers(candidates: list[Candidate]) -> list[Candidate]:
    """Marks a teacher as the average of its student if there are no other networks."""
    others = [one for one in candidates if "teacher" not in one.path]
    alone = all("student" in one.path for one in others)
    return [replace(one, averaged=True) if "teacher" in one.path and alone else one for one in candidates]


def _best(candidates: list[Candidate], path: Path, scan: _Scan) -> Selection:
    """Selects one candidate. Raises BadWeights with the list of keys when no rule applies."""
    averages, raw = ([one for one in candidates if one.averaged is kind] for kind in (True, False))
    if scan.closed and not averages:
        raise BadWeights(
            f"{path}: the averaged weights cannot be read, {scan.closed[0]}; give a file that has them as a state dict, "
            f"or use others in this file: {_listed_options(raw)}."
        )
    if len(candidates) == 1:
        return Selection(candidates[0].tensors, candidates[0].key)
    taken: Candidate | None = None
    if len(averages) == 1:
        (average,) = averages
        related = [one for one in raw if _related(one, average)]
        known = [one for one in raw if looks_like(one.tensors)]
        if related:
            return _average(average, max(related, key=lambda one: _common_prefix(one.path, average.path)), path)
        if not known and looks_like(average.tensors):
            taken = average
    elif not averages and not any("teacher" in one.path for one in candidates):
        usual = [one for one in raw if one.last in RAW]
        known = [one for one in raw if looks_like(one.tensors)]
        taken = usual[0] if len(usual) == 1 else known[0] if len(known) == 1 and not usual else None
        if taken is not None and any(one is not taken and _related(one, taken) for one in raw):
            taken = None  # another set has the same tensor names under another key; it may be the average
    if taken is None:
        raise BadWeights(f"{path} contains {len(candidates)} sets of weights and no rule selects one; {_listed_options(candidates)}.")
    return Selection(taken.tensors, taken.key, f"{path}: took the weights under {taken.shown}, {_not_taken(taken, candidates)}")


def _related(one: Candidate, other: Candidate) -> bool:
    """Whether two sets belong to the same network: at least half of the names of ``other`` are in both."""
    return 2 * len(one.tensors.keys() & other.tensors.keys()) >= len(other.tensors)


def _once(candidates: list[Candidate]) -> list[Candidate]:
    """Removes sets that contain the same tensors under another key; keeps the first."""
    seen: dict[frozenset[tuple[str, int]], Candidate] = {}
    for one in candidates:
        same = frozenset((name, id(value.storage if isinstance(value, Stored) else value)) for name, value in one.tensors.items())
        seen.setdefault(same, one)
    return list(seen.values())


def _common_prefix(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the common prefix of two paths, in keys."""
    return next((count for count, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _average(average: Candidate, raw: Candidate, path: Path) -> Selection:
    """The average, completed with raw tensors that it lacks because they were not trained. Tied weights, which an average of parameters
    contains only once, are tied in the result too."""
    first = {_tensor_identity(value): name for name, value in raw.tensors.items() if name in average.tensors}
    untracked = {name: value for name, value in raw.tensors.items() if name not in average.tensors}
    tied = {name: average.tensors[first[_tensor_identity(value)]] for name, value in untracked.items() if _tensor_identity(value) in first}
    frozen = {name: value for name, value in untracked.items() if name not in tied}
    added = f" and from '{raw.key}' the {len(frozen)} tensors that the average leaves out ({_examples(frozen)})" if frozen else ""
    note = f"{path}: took the averaged weights under '{average.key}'{added}, not the raw ones under '{raw.key}'; --weights-key changes it."
    return Selection({**average.tensors, **tied, **frozen}, average.key, note)


def _tensor_identity(value: Any) -> tuple[Any, ...]:
    """A key that is equal for two names of the same tensor (tied weights)."""
    if isinstance(value, Stored):
        return id(value.storage), value.offset, value.shape, value.stride
    return value.data_ptr() if value.numel() else id(value), 0, tuple(value.shape), value.stride()


def _by_key(candidates: Sequence[Candidate], key: str, path: Path) -> Selection:
    """The candidate of a key: an exact path, else the only path that ends with it, else those below it. Raises BadWeights if none match."""
    exact = [one for one in candidates if one.key == key]
    ends = [one for one in candidates if one.key.endswith(f".{key}")]
    under = [one for one in candidates if one.key.startswith(f"{key}.")]
    matching = exact or (ends if len(ends) == 1 else []) or under or _first_words(candidates, key)
    if not matching:
        known = [one.key for one in candidates]
        if known == ["."]:
            raise BadWeights(f"{path} contains a single state dict and nothing under '{key}'; leave --weights-key out.")
        raise BadWeights(f"{path} contains no weights under '{key}'.{closest(key, known)}")
    chosen = _best(list(matching), path, _Scan())
    if len(matching) == 1 and matching[0].averaged:
        related = [one for one in candidates if not one.averaged and one.tensors.keys() > matching[0].tensors.keys()]
        if len(related) == 1:
            chosen = _average(matching[0], related[0], path)
    return replace(chosen, note=f"{path}: took the weights under '{chosen.key}', as requested.")


def _first_words(candidates: Sequence[Candidate], key: str) -> list[Candidate]:
    """The tensors whose names begin with the key, such as one of several networks in a state dict."""
    matching = []
    for one in candidates:
        inside = f"{key.removeprefix(f'{one.key}.')}."
        tensors = {name.removeprefix(inside): value for name, value in one.tensors.items() if name.startswith(inside)}
        if tensors:
            matching.append(Candidate((*one.path, *inside[:-1].split(".")), plain(tensors)))
    return matching


def _listed_options(candidates: Sequence[Candidate]) -> str:
    listed = ", ".join(one.shown for one in candidates) or "none"
    return f"choose by --weights-key (weights_key in Python, encoder.weights_key in a run): {listed}"


def _not_taken(taken: Candidate, candidates: Sequence[Candidate]) -> str:
    others = ", ".join(one.shown for one in candidates if one is not taken)
    return f"not those under {others}; --weights-key changes it."


def _examples(names: Names) -> str:
    return ", ".join(list(names)[:3]) + (", ..." if len(names) > 3 else "")
