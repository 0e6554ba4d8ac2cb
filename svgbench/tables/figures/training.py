"""Training curves side by side: the transformers' loss, and gFID if snapshots were sampled during the training."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

from matplotlib.ticker import MaxNLocator

from svgbench.tables.figures.curves import gfid_along
from svgbench.tables.figures.sources import TokenizerRuns
from svgbench.tables.figures.style import WIDTH, FigureData, Page, line_of, name_lines

LEFT, RIGHT, TOP, GAP = 0.62, 1.55, 0.52, 0.62
POINTS = 40
"""Most points of a loss curve; neighbouring lines of a longer log are averaged."""


def training_curves(tokenizers: Sequence[TokenizerRuns]) -> FigureData | str:
    """Loss against images seen, one panel per objective, then gFID along the training; or the reason why it is not drawn."""
    losses = {one.name: _loss(one) for one in tokenizers}
    drawn = [one for one in tokenizers if losses[one.name]]
    if not drawn:
        return "training curves need a transformer that was trained here; these runs take theirs from released files."
    objectives = list(dict.fromkeys(one.config.diffusion.objective for one in drawn))
    scores = {one.name: gfid_along(one) for one in drawn}
    along = [one for one in drawn if len(scores[one.name]) > 1]
    panels: list[tuple[str, list[TokenizerRuns], dict[str, list[tuple[int, float]]]]] = [
        (f"loss ({objective})", [one for one in drawn if one.config.diffusion.objective == objective], losses) for objective in objectives
    ]
    if along:
        panels.append(("gFID (lower is better)", along, {name: [(seen, value) for seen, value, _ in at] for name, at in scores.items()}))
    height = max(2.1, 0.15 * len(drawn))
    width = (WIDTH - LEFT - RIGHT - (len(panels) - 1) * GAP) / len(panels)
    page = Page(WIDTH, TOP + height + 0.5)
    title = "Training of the transformers"
    page.title(title)
    for number, (label, shown, curves) in enumerate(panels):
        axes = page.axes(LEFT + number * (width + GAP), TOP, width, height)
        ends = []
        for one in shown:
            how = line_of(one.number)
            marked: dict[str, Any] = {} if label.startswith("gFID") else {"marker": ""}
            points = curves[one.name]
            axes.plot([seen for seen, _ in points], [value for _, value in points], **{**how, **marked})
            ends.append((points[-1][0], points[-1][1], one.name, str(how["color"])))
        axes.set_title(label, loc="left")
        axes.set_xlabel("images seen in training")
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1e6:g}M" if x >= 1e6 else f"{x / 1e3:g}k" if x >= 1e3 else f"{x:g}")
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.set_ylim(axes.get_ylim())  # fixes the limits before names are placed
        if number == len(panels) - 1:
            name_lines(axes, ends, height)
    rows: list[list[Any]] = []
    for one in drawn:
        seeds = len(one.records)
        objective = one.config.diffusion.objective
        rows += [[one.name, "loss", objective, seen, value, None, seeds, ""] for seen, value in losses[one.name]]
        rows += [[one.name, "gfid", objective, seen, value, row["steps"], seeds, row["protocol"]] for seen, value, row in scores[one.name]]
    caption = (
        "Training loss of the transformer, averaged over seeds and over neighbouring lines of the log. If snapshots were sampled during "
        "training: their gFID without guidance at the largest number of steps. The size of a loss depends on the latents: compare the "
        "heights of curves only for the same latents, else only their shapes."
    )
    columns = ["tokenizer", "what", "objective", "images_seen", "value", "steps", "seeds", "protocol"]
    return FigureData("training-curves", title, caption, page, columns, rows)


def _loss(one: TokenizerRuns) -> list[tuple[int, float]]:
    """(images seen, mean loss) along the training, at most ``POINTS`` points, averaged over the seeds that have this line."""
    at: dict[int, list[float]] = {}
    for log in one.training_log():
        for line in log:
            if "loss" in line:
                at.setdefault(line["images_seen"], []).append(line["loss"])
    lines = [(seen, mean(values)) for seen, values in sorted(at.items())]
    size = -(-len(lines) // POINTS) if lines else 1
    groups = [lines[start : start + size] for start in range(0, len(lines), size)]
    return [(group[-1][0], mean(value for _, value in group)) for group in groups]
