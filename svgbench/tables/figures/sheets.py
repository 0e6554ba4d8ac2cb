"""Sheets of pictures, one row per tokenizer: reconstructions, samples at equal noise, interpolations, edits to another class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

import numpy as np

from svgbench.tables.figures.sources import TokenizerRuns, rmse
from svgbench.tables.figures.style import SOFT, WIDTH, FigureData, Page, in_lines

LEFT, TOP, GAP, BLOCK = 1.3, 0.72, 0.035, 0.16
"""Inches: space for names, for headings, between pictures, between blocks of pictures."""
SIDE = 0.68
"""Largest side of a picture in inches."""
DRAWN = 4
"""Samples per number of steps; twice as many of a single number."""
COUNTS = 3
"""Numbers of steps side by side."""


@dataclass
class Sheet:
    """Blocks of pictures side by side, under headings."""

    title: str
    blocks: list[list[str]]
    """For each block, the heading of each picture."""
    heads: list[str] = field(default_factory=list)
    """The heading above each block."""
    rows: list[tuple[str, str, list[np.ndarray | None]]] = field(default_factory=list)
    """Name, a small line below it, uint8 pictures [3, H, W] from left to right; None leaves a place empty."""

    def page(self) -> Page:
        """Draws the sheet."""
        count = sum(map(len, self.blocks))
        spare = WIDTH - LEFT - 0.08 - GAP * (count - 1) - (BLOCK - GAP) * (len(self.blocks) - 1)
        side = min(SIDE, spare / count)
        top = TOP if self.heads else TOP - 0.2
        page = Page(WIDTH, top + len(self.rows) * (side + 0.06) + 0.05)
        page.title(self.title)
        xs, x = [], LEFT
        for number, block in enumerate(self.blocks):
            if self.heads:
                page.text(x, top - 0.31, self.heads[number], va="center")
            for head in block:
                page.text(x + side / 2, top - 0.1, head, va="center", ha="center", fontsize=6, color=SOFT)
                xs.append(x)
                x += side + GAP
            x += BLOCK - GAP
        for down, (name, small, pictures) in enumerate(self.rows):
            y = top + down * (side + 0.06)
            lines = in_lines(name)
            page.text(0.08, y + 0.03, lines, va="top")
            if small:
                below = 0.125 * (1 + lines.count("\n")) if name else 0.0
                page.text(0.08, y + 0.06 + below, small, va="top", fontsize=6, color=SOFT)
            for place, pixels in zip(xs, pictures, strict=True):
                if pixels is not None:
                    page.picture(place, y, side, pixels)
        return page


def reconstructions(tokenizers: Sequence[TokenizerRuns]) -> FigureData:
    """Originals, then each tokenizer's reconstructions, with and without its residual if it has one."""
    pictures, about = tokenizers[0].read("residual-left-out")
    names, places, originals = about["names"], about["images"], pictures[0]
    sheet = Sheet("Reconstructions of validation images", [[short(name) for name in names]])
    sheet.rows.append(("original", "", list(originals)))
    rows: list[list[Any]] = []

    def add(one: TokenizerRuns, how: str, small: str, decoded: np.ndarray) -> None:
        sheet.rows.append((one.name, small, list(decoded)))
        for image, name, picture, original in zip(places, names, decoded, originals, strict=True):
            rows.append([one.name, how, image, name, rmse(picture, original)])

    for one in tokenizers:
        left_out = one.read("residual-left-out")[0]
        if len(left_out) > 1:
            add(one, "residual left out", "residual left out", left_out[1])
        add(one, "whole", _psnr(one), one.reconstructions()[places])
    caption = (
        "Validation images, the first of each class, and their reconstructions (first seed). Residual left out: the same decoder with the "
        "mask token of its training in the residual's place. PSNR: of all validation images."
    )
    return FigureData("reconstructions", sheet.title, caption, sheet.page(), ["tokenizer", "decoded", "image", "class", "rmse"], rows)


def samples(tokenizers: Sequence[TokenizerRuns]) -> FigureData | str:
    """The same sample indices of each tokenizer at a few numbers of steps and the largest guidance that all share, or the reason why this
    is not drawn."""
    common = set.intersection(*(set(one.cells()) for one in tokenizers))
    if not common:
        return "samples at equal noise need runs with a count of steps and a guidance in common."
    guidance = max(guidance for _, guidance in common)
    steps = sorted(steps for steps, scale in common if scale == guidance)
    if len(steps) > COUNTS:
        steps = [steps[round(i * (len(steps) - 1) / (COUNTS - 1))] for i in range(COUNTS)]
    names, first = tokenizers[0].classes(), tokenizers[0].samples(steps[0], guidance)[1]
    indices = _of_different_classes(first, DRAWN if len(steps) > 1 else 2 * DRAWN)
    title = "Samples at equal noise" + ("" if guidance == 1 else f", guidance {guidance:g}")
    heads = [f"{count} step{'s' * (count > 1)}" for count in steps]
    sheet = Sheet(title, [[short(names[first[i]]) for i in indices]] * len(steps), heads)
    rows: list[list[Any]] = []
    for one in tokenizers:
        drawn: list[np.ndarray | None] = []
        for count in steps:
            pixels, labels = one.samples(count, guidance)
            drawn += [pixels[i] if i < len(pixels) and labels[i] == first[i] else None for i in indices]
            rows += [[one.name, one.first.name, count, guidance, i, int(first[i]), names[first[i]]] for i in indices]
        sheet.rows.append((one.name, "", drawn))
    caption = (
        "Samples of the same index: the same class and the same stream of noise for every tokenizer and every count of steps (first seed); "
        "latents of different sizes take different numbers from the stream. Not selected: the first index of each of the first classes."
    )
    columns = ["tokenizer", "run", "steps", "guidance", "index", "label", "class"]
    return FigureData("samples", title, caption, sheet.page(), columns, rows)


def interpolation(tokenizers: Sequence[TokenizerRuns]) -> FigureData:
    """Decoded points on the straight line between the latents of two images."""
    about = tokenizers[0].read("interpolation")[1]
    names, shares = about["names"], about["shares"]
    pairs = [(names[i], names[i + 1]) for i in range(0, len(names) - 1, 2)]
    heads = [f"{one} to {other}" for one, other in pairs]
    sheet = Sheet("Interpolation between the latents of two images", [[f"{share:.2g}" for share in shares]] * len(pairs), heads)
    originals: list[np.ndarray | None] = []
    for strip in tokenizers[0].read("interpolation")[0]:
        originals += [strip[0], *[None] * (len(shares) - 2), strip[1]]
    sheet.rows.append(("original", "", originals))
    rows: list[list[Any]] = []
    for one in tokenizers:
        pictures, _ = one.read("interpolation")
        shown: list[np.ndarray | None] = []
        for (start, end), strip in zip(pairs, pictures, strict=True):
            shown += list(strip[2:])
            rows += [
                [one.name, start, end, share, rmse(picture, strip[0]), rmse(picture, strip[1])]
                for share, picture in zip(shares, strip[2:], strict=True)
            ]
        sheet.rows.append((one.name, "", shown))
    caption = (
        "Two validation images of different classes and what the decoder makes of the points between their raw latents; 0 and 1 are the "
        "reconstructions of the two."
    )
    columns = ["tokenizer", "from", "to", "share", "rmse_to_from", "rmse_to_to"]
    return FigureData("interpolation", sheet.title, caption, sheet.page(), columns, rows)


def editing(tokenizers: Sequence[TokenizerRuns]) -> FigureData:
    """Images edited to another class, starting at several times."""
    about = tokenizers[0].read("editing")[1]
    starts = about["starts"]
    heads = [f"{name} to {target}" for name, target in zip(about["names"], about["target_names"], strict=True)]
    sheet = Sheet("Editing: an image changed to another class", [["t = 1", *(f"{t:g}" for t in starts)]] * len(heads), heads)
    originals: list[np.ndarray | None] = []
    for strip in tokenizers[0].read("editing")[0]:
        originals += [strip[0], *[None] * len(starts)]
    sheet.rows.append(("original", "", originals))
    rows: list[list[Any]] = []
    for one in tokenizers:
        pictures, facts = one.read("editing")
        small = f"{facts['steps']} steps" + ("" if facts["guidance"] == 1 else f", guidance {facts['guidance']:g}")
        sheet.rows.append((one.name, small, [picture for image in pictures for picture in image[1:]]))
        for image, name, target, strip in zip(facts["images"], facts["names"], facts["target_names"], pictures, strict=True):
            rows += [
                [one.name, image, name, target, t, facts["steps"], facts["guidance"], rmse(picture, strip[0])]
                for t, picture in zip(starts, strip[2:], strict=True)
            ]
    caption = (
        "A validation image, its reconstruction (t = 1), and what the transformer samples under another class from its latents noised to "
        "time t (t = 0: noise); a greater t keeps more of the image. Euler's method on the run's time grid (first seed)."
    )
    columns = ["tokenizer", "image", "class", "target", "t", "steps", "guidance", "rmse_to_image"]
    return FigureData("editing", sheet.title, caption, sheet.page(), columns, rows)


def _psnr(one: TokenizerRuns) -> str:
    values = [row["value"] for row in one.rows if row["metric"] == "psnr"]
    return f"PSNR {mean(values):.2f} dB" if values else ""


def _of_different_classes(labels: np.ndarray, count: int) -> list[int]:
    """The first index of each of the first classes, then the first remaining indices."""
    _, firsts = np.unique(labels, return_index=True)
    chosen = sorted(firsts.tolist())[:count]
    return chosen + [i for i in range(len(labels)) if i not in chosen][: count - len(chosen)]


def short(name: str) -> str:
    """A class name, shortened to fit above a picture."""
    name = name.split(",")[0]
    return name if len(name) <= 12 else name[:11] + "…"
