"""The toy velocity field of two classes, entangled and separated: exact, without a run (``metrics.mixture``)."""

from __future__ import annotations

from typing import Any

import numpy as np

from svgbench.metrics.mixture import Mixture, two_classes
from svgbench.tables.figures.palette import LINES
from svgbench.tables.figures.style import SOFT, WIDTH, FigureData, Page, bare

TIMES = (0.1, 0.5, 0.9)
STEPS = (1, 2, 3, 5, 10, 25)
"""Numbers of Euler steps whose error is drawn."""
FINE = 300
"""Number of Euler steps that is used as the exact path."""
POINTS, REACH, PATHS, NOISES = 7, 2.6, 60, 300
LAYOUTS = (("entangled", True), ("separated", False))


def velocity_field() -> FigureData:
    """Velocities of two classes at three times, paths, and the error of few steps. Both rows have the same data with different labels."""
    title = "Exact velocity field of two classes: entangled and separated"
    side, left, top, gap = 1.2, 0.8, 0.62, 0.08
    page = Page(WIDTH, top + 2 * (side + 0.3) + 0.08)
    page.title(title)
    heads = [*(f"velocities, t = {t:g}" for t in TIMES), "paths from noise to data"]
    for number in (0, 1):
        page.text(0.08, top + 0.05 + 0.15 * number, f"● class {'AB'[number]}", va="center", fontsize=6.5, color=LINES[number])
    for number, head in enumerate(heads):
        page.text(left + number * (side + gap), top - 0.12, head, va="center", fontsize=6.5, color=SOFT)
    line = np.linspace(-2.1, 2.1, POINTS)
    grid = np.stack(np.meshgrid(line, line), 2).reshape(-1, 2)
    noise = np.random.Generator(np.random.Philox(key=[0, PATHS])).standard_normal((NOISES, 2))
    rows: list[list[Any]] = []
    errors = {}
    for down, (name, entangled) in enumerate(LAYOUTS):
        y = top + down * (side + 0.3)
        page.text(0.08, y + side / 2, name, va="center")
        classes = two_classes(entangled)
        for across, t in enumerate(TIMES):
            axes = page.axes(left + across * (side + gap), y, side, side)
            bare(axes)
            axes.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH))
            velocities = [one.velocity(grid, t) for one in classes]
            for number, (one, velocity) in enumerate(zip(classes, velocities, strict=True)):
                axes.plot(*(t * one.centres.T), ".", color=LINES[number], markersize=2.5, alpha=0.5)
                axes.quiver(*grid.T, *velocity.T, color=LINES[number], angles="xy", scale_units="xy", scale=8, width=0.008)
                for (x_0, x_1), (v_0, v_1) in zip(grid.tolist(), velocity.tolist(), strict=True):
                    rows.append([name, "velocity", t, "AB"[number], x_0, x_1, v_0, v_1, None, None])
            agreement = _agreement(*velocities)
            rows.append([name, "agreement", t, "A, B", None, None, None, None, None, agreement])
            axes.set_xlabel(f"cosine of A and B: {agreement:.2f}", fontsize=6, color=SOFT, labelpad=2)
        axes = page.axes(left + len(TIMES) * (side + gap), y, side, side)
        bare(axes)
        axes.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH))
        for number, one in enumerate(classes):
            path = one.path(noise[:PATHS], 100)
            axes.plot(*path.transpose(2, 0, 1), color=LINES[number], linewidth=0.35, alpha=0.6)
            axes.plot(*path[-1].T, ".", color=LINES[number], markersize=2.5)
        errors[name] = _errors(classes, noise)
        rows += [
            [name, "error", None, "A, B", None, None, None, None, steps, error] for steps, error in zip(STEPS, errors[name], strict=True)
        ]
        _error_axes(page, y, side, errors[name], last=down == 1)
    caption = (
        "The data are 16 Gaussians (dots: their centres at time t). Their two classes alternate as on a chessboard (entangled) or divide "
        "them into halves (separated), so both rows have the same data with different labels. Arrows: the exact velocity "
        "E[x_1 - x_0 | x_t, class], in closed form. Cosine: between the two classes' velocities at the same place, averaged over the drawn "
        f"places. Right: root mean square distance between the end points of few and of {FINE} Euler steps, averaged over both classes "
        f"and {NOISES} noises and divided by the data's standard deviation. Nothing is trained."
    )
    columns = ["layout", "what", "t", "class", "x", "y", "velocity_x", "velocity_y", "steps", "value"]
    return FigureData("toy-field", title, caption, page, columns, rows)


def _error_axes(page: Page, y: float, side: float, errors: list[float], *, last: bool) -> None:
    axes = page.axes(WIDTH - 0.74, y, 0.66, side)
    axes.plot(STEPS, errors, "o-", color="black", markersize=2.5, linewidth=0.9)
    axes.set(xscale="log", ylim=(0, 1.05), xlim=(0.8, 32))
    axes.set_xticks([1, 5, 25], ["1", "5", "25"], fontsize=6)
    axes.tick_params(axis="y", labelsize=6, pad=1)
    axes.minorticks_off()
    axes.set_title("error", fontsize=6.5, color=SOFT, loc="left", pad=3)
    axes.set_xlabel("steps" if last else "", fontsize=6, labelpad=1)


def _agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Mean cosine between the velocities [N, 2] of two classes at the same points."""
    return float(((one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)).mean())


def _errors(classes: tuple[Mixture, Mixture], noise: np.ndarray) -> list[float]:
    """Root mean square distance between the results of each of ``STEPS`` and of ``FINE`` Euler steps, divided by the standard deviation of
    both classes' data."""
    spread = np.square(np.concatenate([one.centres for one in classes])).sum(1).mean() + 2 * classes[0].deviation ** 2
    ends = [one.path(noise, FINE)[-1] for one in classes]
    squares = [
        [np.square(one.path(noise, steps)[-1] - end).sum(1).mean() for one, end in zip(classes, ends, strict=True)] for steps in STEPS
    ]
    return [float(np.sqrt(np.mean(both) / spread)) for both in squares]
