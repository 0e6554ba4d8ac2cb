"""Scores in columns of one protocol each: comparable numbers are ranked, others are in separate columns with the reason.

Numbers share a column only if their protocols are equal, except for steps and guidance, which the column's title names, and for fields in
which a table's rows differ by design, which each row shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from svgbench.config.records import Protocol, canonical, flat
from svgbench.config.sampling import at_edge
from svgbench.tables.measures import MEASURES
from svgbench.tables.seeds import interval_of, measured_once, text_of, value_of
from svgbench.tables.significance import LEVEL, best_and_ties
from svgbench.tables.table import Cell, Table

TITLED = ("sampling.steps", "sampling.guidance")
"""Fields of a protocol that a column's title names."""

SINGULAR = "no more images than features: the covariance is singular, and the distance cannot be compared with one from more images"
"""The note about scores whose ``detail`` is marked ``singular``."""


MARKED = (
    "bold: the best mean, and every {one} that does not differ significantly from it; italic or underlined: the same among the other {one}s"
)
"""The note about marked numbers; the test follows."""
MARKS = MARKED.format(one="row")
BY_SEEDS = f"by a paired t-test over seeds (two-sided, {100 * LEVEL:g} %, Holm's correction over the column)"
BY_IMAGES = f"by their intervals over images ({100 * LEVEL:g} %, Holm's correction over the column), without the variation between seeds"


class Entry(NamedTuple):
    """One score with its row and column."""

    row: str
    column: str
    score: dict[str, Any]


def standings(
    title: str,
    entries: Sequence[Entry],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    by_design: Sequence[str] = (),
    absent: Callable[[str, str], str] = lambda row, column: "-",
) -> Table:
    """The entries, averaged over seeds, as a table in the given order of rows and column titles. A title with several protocols becomes
    several columns; one without entries stays. ``absent``: (row, title) -> text of a cell without a number."""
    protocols = {id(e.score): shared_protocol(e.score, by_design) for e in entries}
    cells: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for entry in entries:
        cells.setdefault((entry.row, entry.column, protocols[id(entry.score)]), []).append(entry.score)
    cells = {place: measured_once(scores) for place, scores in cells.items()}
    pairs = list(dict.fromkeys((column, protocol) for _, column, protocol in cells))
    ordered = [pair for name in columns for pair in ([c for c in pairs if c[0] == name] or [(name, "")])]
    notes = _Notes(cells, ordered, by_design)
    table = Table(title, ["run", *(notes.titled(*column) for column in ordered)], [])
    ranked = {column: {row: cells[(row, *column)] for row in rows if (row, *column) in cells} for column in ordered}
    places = {column: places_of(row_scores) for column, row_scores in ranked.items()}
    for row in rows:
        texts = []
        for name, protocol in ordered:
            cell_scores = cells.get((row, name, protocol))
            elsewhere = not cell_scores and any((row, name, other) in cells for title_, other in ordered if title_ == name)
            texts.append(
                scored_cell(cell_scores, places[name, protocol].get(row, 0)) if cell_scores else "-" if elsewhere else absent(row, name)
            )
        table.rows.append([row, *texts])
    table.notes = [*notes.all(), *significance_notes([row_scores for column, row_scores in ranked.items() if places[column]])]
    return table


def shared_protocol(score: dict[str, Any], by_design: Sequence[str]) -> str:
    """The protocol fields that two scores must share to be in one column."""
    return _shared(canonical(score["protocol_fields"]), tuple(by_design))


def fields_of(score: dict[str, Any]) -> dict[str, Any]:
    """The fields of a score's protocol under dotted names; fields missing in files of earlier versions have their defaults."""
    return _fields(canonical(score["protocol_fields"]))


@lru_cache(maxsize=10_000)
def _fields(protocol: str) -> dict[str, Any]:
    """The same for a protocol in canonical JSON; cached, because thousands of scores share few protocols."""
    return flat(Protocol.model_validate_json(protocol).model_dump(mode="json"))


@lru_cache(maxsize=10_000)
def _shared(protocol: str, by_design: tuple[str, ...]) -> str:
    """The fields of a protocol (canonical JSON) that the scores of a column share. Of a tuned shift they include how it was tuned, but not
    its value."""
    fields = _fields(protocol)
    number = ["sampling.shift"] if fields.get("sampling.tuned") else []
    return canonical({k: v for k, v in fields.items() if k not in (*TITLED, *by_design, *number)})


def places_of(cells: dict[str, list[dict[str, Any]]]) -> dict[str, int]:
    """Row -> 1 for the best row of a column of two or more and its ties, the rows that do not differ significantly from it; 2 for the best
    of the others and its ties, in a column of three or more (``significance.best_and_ties``). Empty when all rows are equal."""
    if len(cells) < 2 or len({value_of(scores) for scores in cells.values()}) == 1:  # a single row has nothing to compare with
        return {}
    lower = MEASURES[next(iter(cells.values()))[0]["metric"]].better == "lower"
    first = best_and_ties(cells, lower=lower)
    rest = {row: scores for row, scores in cells.items() if row not in first}
    second = best_and_ties(rest, lower=lower) if rest and len(cells) > 2 else []
    return dict.fromkeys(first, 1) | dict.fromkeys(second, 2)


def significance_notes(marked: Sequence[dict[str, list[dict[str, Any]]]], *, one: str = "row", over: str = "column") -> list[str]:
    """The note on the tests behind the marks; empty when nothing is marked. ``one``: what has a mark; ``over``: what is compared."""
    counts = [len(scores) for cells in marked for scores in cells.values()]
    if not counts:
        return []
    several, single = max(counts) > 1, min(counts) == 1
    how = [*([BY_SEEDS] if several else []), *([f"{f'{one}s of one seed ' if several else ''}{BY_IMAGES}"] if single else [])]
    return [f"{MARKED.format(one=one)}, {'; '.join(how).replace('over the column', f'over the {over}')}"]


def scored_cell(scores: list[dict[str, Any]], place: int) -> Cell:
    """The text of scores averaged over seeds, with the mark of their protocol; ``place``: 1 for the best of its column, 2 for the second
    best."""
    text = text_of(scores, MEASURES[scores[0]["metric"]].digits)
    seeds = ", ".join(f"{s['value']:.6g} (seed {s['seed']})" for s in scores)
    detail = scores[0]["detail"]
    rate = f"; {_interval(detail)}" if len(scores) == 1 and detail.get("interval") else ""
    hint = f"{seeds}; {scores[0]['count']} images{rate}; {scores[0]['protocol']}"
    low, high = interval_of(scores)
    facts = {"metric": scores[0]["metric"], "low": low, "high": high, "count": scores[0]["count"], "protocol": scores[0]["protocol"]}
    return Cell(text, place=place, value=value_of(scores), hint=hint, **facts)


def _interval(detail: dict[str, Any]) -> str:
    """How a score's interval was computed, in the current wording: artifacts of earlier versions have "+- 1.96 sd of" and "se of"."""
    text = detail["interval"].replace("+-", "±")
    return text.replace(" sd of ", " standard deviations of ").replace(" se of ", " standard errors of ")


class _Notes:
    """The notes under a table: what its columns' marks mean, why columns of one title are separate, what the intervals are."""

    def __init__(
        self, cells: dict[tuple[str, str, str], list[dict[str, Any]]], columns: list[tuple[str, str]], by_design: Sequence[str]
    ) -> None:
        self._cells, self._columns, self._by_design = cells, columns, by_design
        self._of: dict[str, list[dict[str, Any]]] = {}
        for (_, _, protocol), scores in cells.items():
            self._of.setdefault(protocol, []).extend(scores)
        texts = [self._text(protocol) for _, protocol in columns if protocol]
        self._marks = {text: i + 1 for i, text in enumerate(dict.fromkeys(texts))}

    def titled(self, name: str, protocol: str) -> str:
        """A column's title with its mark; a column without numbers has no mark."""
        return f"{name} [{self._marks[self._text(protocol)]}]" if protocol else name

    def all(self) -> list[str]:
        """Every note."""
        return [*self._legend(), *self._apart(), *self._design(), *self._tuned(), *self._singular(), *self._intervals()]

    def _made(self, protocol: str) -> Protocol:
        return Protocol.model_validate(self._of[protocol][0]["protocol_fields"])

    def _text(self, protocol: str) -> str:
        """A protocol's note. If rows differ by design in the sampling, its other fields are listed by name."""
        made = self._made(protocol)
        if made.sampling is None or not any(name.startswith("sampling.") for name in self._by_design):
            return made.note
        left = (*TITLED, *self._by_design, *(["sampling.shift"] if made.sampling.tuned else []))
        kept = {n: v for n, v in made.sampling.model_dump().items() if v is not None and f"sampling.{n}" not in left}
        return "; ".join([made.model_copy(update={"sampling": None}).text, *(f"{name} {value}" for name, value in kept.items())])

    def _legend(self) -> list[str]:
        counts: dict[str, set[int]] = {}
        for protocol, scores in self._of.items():
            counts.setdefault(self._text(protocol), set()).update(s["count"] for s in scores)
        return [f"[{mark}] {text}; count {', '.join(map(str, sorted(counts[text])))}" for text, mark in self._marks.items()]

    def _apart(self) -> list[str]:
        notes = []
        for number, (name, protocol) in enumerate(self._columns):
            first = next(p for n, p in self._columns[: number + 1] if n == name)
            if first != protocol:
                one, other = (self._marks[self._text(p)] for p in (first, protocol))
                differences = [d for d in self._made(first).differs(self._made(protocol)) if d.split(" (")[0] not in self._by_design]
                notes.append(f"[{one}] and [{other}] are not ranked together; they differ in {'; '.join(differences)}")
        return list(dict.fromkeys(notes))

    def _design(self) -> list[str]:
        if not self._by_design or not self._of:
            return []
        return [f"rows differ by design in {', '.join(self._by_design)}, shown in each row, and are ranked together"]

    def _tuned(self) -> list[str]:
        """The shift that was chosen for each row."""
        chosen: dict[str, dict[str, dict[float, None]]] = {}
        for (row, _, _), scores in self._cells.items():
            for fields in map(fields_of, scores):
                if how := fields.get("sampling.tuned"):
                    chosen.setdefault(how, {}).setdefault(row, {})[fields["sampling.shift"]] = None
        notes = [f"sampling shift tuned ({how}): {_numbers(rows)}" for how, rows in chosen.items()]
        edges = {row: None for how, rows in chosen.items() for row, numbers in rows.items() if any(at_edge(one, how) for one in numbers)}
        beyond = "is the smallest or largest candidate, so a better one may lie outside their range"
        return [*notes, *([f"the tuned shift of {', '.join(edges)} {beyond}"] if edges else [])]

    def _singular(self) -> list[str]:
        few = [s["metric"] for scores in self._of.values() for s in scores if s["detail"].get("singular")]
        return [f"{', '.join(dict.fromkeys(few))}: {SINGULAR}"] if few else []

    def _intervals(self) -> list[str]:
        cells = list(self._cells.values())
        notes = []
        several = sorted({len(scores) for scores in cells if len(scores) > 1})
        if several:
            notes.append(f"mean ± half of the 95 % t-interval over {' or '.join(map(str, several))} seeds")
        single = [scores[0] for scores in cells if len(scores) == 1 and scores[0]["low"] is not None]
        stated = dict.fromkeys(_interval(score["detail"]) for score in single)
        if stated:
            notes.append(f"value (low, high): one seed, {'; or '.join(stated)}; variation between seeds is not included")
        return [*notes, *self._fewer()]

    def _fewer(self) -> list[str]:
        """Rows with fewer seeds than others of a column; their rank there is less certain."""
        most: dict[tuple[str, str], int] = {}
        for (_, name, protocol), scores in self._cells.items():
            most[name, protocol] = max(most.get((name, protocol), 0), len(scores))
        fewer: dict[str, dict[str, list[str]]] = {}
        for (row, name, protocol), scores in self._cells.items():
            if len(scores) < most[name, protocol]:
                fewer.setdefault(row, {}).setdefault(f"{len(scores)} of {most[name, protocol]}", []).append(name)
        listed = [f"{row} ({'; '.join(f'{n} in {_listed(names)}' for n, names in by_count.items())})" for row, by_count in fewer.items()]
        return [f"fewer seeds than other rows: {', '.join(listed)}; ranked by the seeds available"] if listed else []


def _numbers(rows: dict[str, dict[float, None]]) -> str:
    """The numbers of each row."""
    return "; ".join(f"{row} {' and '.join(f'{number:g}' for number in numbers)}" for row, numbers in rows.items())


def _listed(names: list[str]) -> str:
    """Columns by name, or their number if there are three or more."""
    return " and ".join(names) if len(names) < 3 else f"{len(names)} columns"
