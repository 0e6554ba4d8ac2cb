"""Table layouts as data: ``reports/table-NAME.yaml`` defines the columns of a paper's table, and what is shown beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from svgbench.config.parse import first_problem, validate
from svgbench.config.part import Part, Positive
from svgbench.config.records import Protocol, SamplingProtocol
from svgbench.errors import closest, unknown
from svgbench.shelf import entries, file_node, read_yaml
from svgbench.tables import facts
from svgbench.tables.measures import MEASURES
from svgbench.tables.published import Published

PREFIX = "table-"
FACTS = (*facts.TITLES, *facts.FIELDS)
"""Facts of its run that a row may show beside its name."""
PROTOCOL = (*Protocol.model_fields, *(f"sampling.{name}" for name in SamplingProtocol.model_fields))


class Rows(Part):
    """Selects rows of ``published.csv``: every given field must match (a list: any of its values); ``source`` matches a substring."""

    system: str | tuple[str, ...] = ()
    tokenizer: str | tuple[str, ...] = ()
    model: str | tuple[str, ...] = ()
    """The network's name without patch size."""
    resolution: int | tuple[int, ...] = ()
    epochs: int | tuple[int | None, ...] | None = ()
    """null: not stated."""
    steps: int | tuple[int | None, ...] | None = ()
    guided: bool | tuple[bool | None, ...] = ()
    metric: str | tuple[str, ...] = ()
    value: float | tuple[float, ...] = ()
    source: str = ""

    def holds(self, row: Published) -> bool:
        """Whether a row is one of these."""
        wanted = {name: getattr(self, name) for name in type(self).model_fields if name != "source"}
        mine = {"model": row.network}
        fits = [mine.get(n, getattr(row, n, None)) in (w if isinstance(w, tuple) else (w,)) for n, w in wanted.items() if w != ()]
        return all(fits) and self.source in row.source

    def text(self) -> str:
        """The given fields as text: ``system RAE, epochs 80``."""
        return ", ".join(f"{name} {value}" for name, value in self.model_dump(mode="json", exclude_defaults=True).items())


class Column(Part):
    """One metric, or one for each number of steps or scale of guidance."""

    metric: str
    title: str = ""
    """Title of the column; the metric's name when empty."""
    steps: int | Literal["most", "all"] = "most"
    """For samples: this number, each row's largest (most), or a column for each (all)."""
    guidance: float | Literal["none", "most", "all", "tuned"] = "none"
    """For samples: this scale, 1 (none), each row's largest (most), a column for each (all), or each row's best scale, chosen on its first
    seed and scored on the others (tuned, ``tables.tuned_guidance``); a tuned column that no row fills is left out, and a note says why."""
    latents: Literal["whole", "features", "residual", "both"] = "whole"
    """For perception: the part of the latents; whole: all that a run has."""
    published: bool = True
    """Whether it also shows published numbers, which do not state their latents."""
    optional: bool = False
    """Whether it is left out if no row has the metric; a note then names it."""

    @model_validator(mode="after")
    def _known(self) -> Column:
        if self.metric not in MEASURES:
            raise ValueError(f"no metric named '{self.metric}'.{closest(self.metric, MEASURES)[:-1]}")
        return self

    @property
    def sampled(self) -> bool:
        """Whether the metric is of samples, which have steps and guidance."""
        return MEASURES[self.metric].of_samples


class Mark(Part):
    """A column of marks: a row gets a mark when its number is close enough to the best of the table."""

    title: str
    metric: str
    within: Positive
    """The largest relative distance from the best number."""
    latents: Literal["whole", "features", "residual", "both"] = "whole"
    """As for a column."""

    @model_validator(mode="after")
    def _known(self) -> Mark:
        self.column  # noqa: B018  (an unknown metric is refused there)
        return self

    @property
    def column(self) -> Column:
        """The column of scores that are compared."""
        return Column(metric=self.metric, latents=self.latents)


class Ratios(Part):
    """Headline ratios against a baseline, from the curves of gFID."""

    over: Literal["steps", "images_seen"]
    baseline: str = "sd-vae"
    """Family, encoder or name of the row with which all others are compared; the first row if there is none."""
    guidance: tuple[Literal["none", "most"], ...] = ("none",)
    targets: tuple[float, ...] = ()
    """gFIDs to reach, in addition to the best of the baseline."""


class Surface(Part):
    """A table whose rows and columns are two fields of the samples' protocol; the layout's ``rows`` distinguish its tokenizers."""

    down: str
    across: str

    @model_validator(mode="after")
    def _known(self) -> Surface:
        known = [f"sampling.{name}" for name, field in SamplingProtocol.model_fields.items() if field.annotation in (int, float)]
        for name in (self.down, self.across):
            if name not in known:
                raise ValueError(f"a sampling protocol has no numeric field '{name}'.{closest(name, known)[:-1]}")
        return self


class Layout(Part):
    """One file: one table with its additions."""

    name: str
    title: str
    paper: str = ""
    """The table or figure of arXiv 2510.15301 that has this layout."""
    grids: tuple[str, ...] = ()
    """The experiments that are shown in it."""
    rows: tuple[str, ...] = ()
    """Facts of a run that are shown beside its name, including fields of its configuration such as ``diffusion.shift``."""
    shows: tuple[str, ...] = ()
    """Fields of the protocol in which rows may differ by design: each row shows them, and rows are ranked across them."""
    columns: tuple[Column, ...] = Field(min_length=1)
    marks: tuple[Mark, ...] = ()
    """Columns of marks, right of the numbers."""
    surface: Surface | None = None
    """Shows the metric of the first column over two fields of the protocol, instead of a row for each run."""
    published: tuple[Rows, ...] = ()
    """Published rows shown below the measured ones."""
    ratios: Ratios | None = None
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _known(self) -> Layout:
        for what, given, known in (("fact of a run", self.rows, FACTS), ("field of a protocol", self.shows, PROTOCOL)):
            for name in given:
                if name not in known:
                    raise ValueError(f"no {what} named '{name}'.{closest(name, known)[:-1]}")
        if len({MEASURES[column.metric].group == "cost" for column in self.columns}) > 1:
            raise ValueError("a table cannot mix columns of `svgbench cost` with scores of runs; split the layout")
        one = self.columns[0]
        if self.surface and (len(self.columns) > 1 or self.marks or not one.sampled or one.guidance in ("most", "all", "tuned")):
            raise ValueError("a surface shows one metric of samples at one guidance scale; give one column, no marks, and a scale or none")
        return self

    @property
    def of_costs(self) -> bool:
        """Whether its columns are measured by `svgbench cost`."""
        return MEASURES[self.columns[0].metric].group == "cost"


class Contested(Part):
    """A fact about published numbers, noted wherever they are printed."""

    says: str
    where: tuple[Rows, ...] = ()
    """The published rows that get it as a footnote."""
    ratios: bool = False
    """Whether headline ratios also get it as a note."""


class ContestedFacts(Part):
    """``reports/contested.yaml``."""

    facts: tuple[Contested, ...]


def load_layout(name: str) -> Layout:
    """A layout by its name on the shelf (without ``table-``) or by its file."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        known = layouts()
        if name not in known:
            raise unknown("table layout", name, known)
        path = known[name]
    return _load(Layout, path, {"name": path.stem.removeprefix(PREFIX), **read_yaml(path)})


def layouts() -> dict[str, Path]:
    """Every layout of the shelf by name."""
    return {name.removeprefix(PREFIX): path for name, path in entries("reports").items() if name.startswith(PREFIX)}


def layouts_of(grid: str) -> list[Layout]:
    """The layouts in which an experiment (its name, or its file) is shown, by name; empty if no layout lists it."""
    name = Path(grid).stem if Path(grid).suffix in (".yaml", ".yml") else grid
    return [layout for layout in map(load_layout, sorted(layouts())) if name in layout.grids]


def contested() -> tuple[Contested, ...]:
    """The contested facts of the shelf."""
    path = entries("reports")["contested"]
    return _load(ContestedFacts, path, read_yaml(path)).facts


def _load(kind: Any, path: Path, content: dict[str, Any]) -> Any:
    """``content`` of a file as a ``kind``; an error names file, line, field and the closest known name."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        where = f"{path}:{_line(path, first_problem(error)['loc'])}"
    return validate(kind, content, where=where)


def _line(path: Path, place: Sequence[str | int]) -> int:
    """The line of the field at a path through a YAML file, or of its nearest existing parent."""
    node = file_node(path)
    line = node.start_mark.line if node is not None else 0
    for step in place:
        if isinstance(node, yaml.MappingNode):
            matches = [(key, value) for key, value in node.value if key.value == str(step)]
            if not matches:
                break
            line, node = matches[0][0].start_mark.line, matches[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line
    return line + 1
