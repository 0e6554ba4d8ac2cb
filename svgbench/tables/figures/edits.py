"""Sheets of pictures that need a trained transformer: edits in a box, samples between two noises, feature maps of its blocks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from svgbench.tables.figures.sheets import Sheet, short
from svgbench.tables.figures.sources import TokenizerRuns, rmse
from svgbench.tables.figures.style import SOFT, WIDTH, FigureData, Page, in_lines

MAPPED = 4
"""Most tokenizers on one page of feature maps."""


def box_editing(tokenizers: Sequence[TokenizerRuns]) -> FigureData:
    """Images that were edited to another class inside or outside a box."""
    pictures, about = tokenizers[0].read("box-editing")
    heads = [f"{name} to {target}" for name, target in zip(about["names"], about["target_names"], strict=True)]
    sheet = Sheet("Editing in a box, from the inverted image", [["decoded", "inverted, back", "inside", "outside"]] * len(heads), heads)
    sheet.rows.append(("original, box", "", [p for strip in pictures for p in (_framed(strip[0], about["box"]), None, None, None)]))
    rows: list[list[Any]] = []
    for one in tokenizers:
        pictures, facts = one.read("box-editing")
        sheet.rows.append((one.name, "", [picture for strip in pictures for picture in strip[1:]]))
        for number, (image, name, target) in enumerate(zip(facts["images"], facts["names"], facts["target_names"], strict=True)):
            common = [one.name, image, name]
            rows.append([*common, name, "none", facts["back"][number], facts["back"][number]])
            rows += [[*common, target, edit["edit"], edit["inside"][number], edit["outside"][number]] for edit in facts["distances"]]
    caption = (
        f"A validation image is inverted along the ODE with its own class and without guidance. 'inverted, back': sampled again from the "
        f"inverted noise in {about['steps']} steps. An edit starts at t = {about['start']:.2f}: noise replaces the latents inside "
        f"(outside) the box, whose mask is blurred by a Gaussian with a standard deviation of {about['blur']:g} positions. "
        f"{about['steps']} Euler steps with guidance {about['guidance']:g} and shift {about['shift']:g} then lead to t = 1 with another "
        "class. Elsewhere the latents follow the inverted trajectory, with a weight that falls to 0 at t = 1. Numbers: root mean square "
        "distance to the image in standardised latents. The paper states neither the box, the start, the blur nor the fading: these are "
        "our choices."
    )
    columns = ["tokenizer", "image", "class", "target", "edit", "distance_inside", "distance_outside"]
    return FigureData("box-editing", sheet.title, caption, sheet.page(), columns, rows)


def noise_interpolation(tokenizers: Sequence[TokenizerRuns]) -> FigureData:
    """Samples along the straight line and the great circle between two noises, with one class."""
    about = tokenizers[0].read("noise-interpolation")[1]
    shares = about["shares"]
    sheet = Sheet(
        "Interpolation of two noises under one class", [[f"{share:.2g}" for share in shares]] * len(about["names"]), list(about["names"])
    )
    rows: list[list[Any]] = []
    for one in tokenizers:
        pictures, facts = one.read("noise-interpolation")
        for way, kind in enumerate(facts["ways"]):
            strips = [pair[way] for pair in pictures]
            sheet.rows.append((one.name if way == 0 else "", kind, [picture for strip in strips for picture in strip]))
            for pair, (name, strip) in enumerate(zip(facts["names"], strips, strict=True)):
                norms = facts["norms"][pair * len(facts["ways"]) + way]
                moved = [None, *(rmse(picture, before) for before, picture in pairwise(strip))]
                rows += [
                    [one.name, name, kind, share, norm, facts["steps"], facts["guidance"], change]
                    for share, norm, change in zip(shares, norms, moved, strict=True)
                ]
    caption = (
        "Samples from interpolations between two noises, with one class: along the straight line, whose midpoint has a smaller norm than "
        "normal noise (about 0.71 of it), and along the great circle. Euler's method on the run's own time grid, "
        f"{about['steps']} steps, guidance {about['guidance']:g} (first seed). Latents of different sizes use different noises."
    )
    columns = ["tokenizer", "class", "way", "share", "norm", "steps", "guidance", "rmse_to_the_one_before"]
    return FigureData("noise-interpolation", sheet.title, caption, sheet.page(), columns, rows)


def feature_maps(tokenizers: Sequence[TokenizerRuns]) -> FigureData:
    """Principal components of the transformer's tokens as colours: rows are times (grouped by tokenizer), columns are blocks."""
    shown = tokenizers[:MAPPED]
    read = [one.read("feature-maps") for one in shown]
    columns = max(len(about["blocks"]) for _, about in read)
    times = read[0][1]["times"]
    left, head, gap = 1.55, 0.3, 0.03
    side = min(0.46, (WIDTH - left - 0.08) / columns - gap)
    block = head + len(times) * (side + gap) + 0.12
    page = Page(WIDTH, 0.3 + len(shown) * block)
    title = "Feature maps of the transformer: three principal components"
    page.title(title)
    rows: list[list[Any]] = []
    for place, (one, (pictures, about)) in enumerate(zip(shown, read, strict=True)):
        y = 0.3 + place * block + head
        page.text(0.08, y + 0.02, in_lines(one.name), va="top")
        lines = in_lines(one.name)
        page.text(0.08, y + 0.06 + 0.125 * (1 + lines.count("\n")), short(about["names"][0]), va="top", fontsize=6, color=SOFT)
        page.picture(0.08, y + 0.22 + 0.125 * (1 + lines.count("\n")), 0.6, one.reconstructions()[about["images"][0]])
        page.text(left - 0.06, y - 0.1, "block", va="center", ha="right", fontsize=6, color=SOFT)
        for across, layer in enumerate(about["blocks"]):
            page.text(left + across * (side + gap) + side / 2, y - 0.1, f"{layer}", va="center", ha="center", fontsize=6, color=SOFT)
        for down, t in enumerate(times):
            page.text(left - 0.06, y + down * (side + gap) + side / 2, f"t = {t:g}", va="center", ha="right", fontsize=6, color=SOFT)
            for across, layer in enumerate(about["blocks"]):
                page.picture(left + across * (side + gap), y + down * (side + gap), side, np.asarray(pictures[0, down, across]))
                rows.append([one.name, layer, t, *about["shares"][0][down][across], sum(about["shares"][0][down][across])])
    left_out = f" Shown are the first {MAPPED} of {len(tokenizers)} tokenizers." if len(tokenizers) > MAPPED else ""
    caption = (
        "Tokens after each block (counted from 0) of the trained transformer on a noised validation image x_t (t = 1: the image's own "
        "latents, t = 0: noise), with its label. The three principal components of a map's tokens are red, green and blue, so colours of "
        "two maps cannot be compared. Beside the maps: the image's reconstruction. Numbers: the share of the tokens' variance that the "
        "components explain." + left_out
    )
    names = ["tokenizer", "block", "t", "share_first", "share_second", "share_third", "share_of_three"]
    return FigureData("feature-maps", title, caption, page, names, rows)


def _framed(picture: np.ndarray, box: Sequence[int]) -> np.ndarray:
    """A uint8 picture [3, H, W] with the box's edge drawn in white on black, one pixel (or 1/64 of the side) wide."""
    drawn, (first, last) = np.array(picture), box
    width = max(1, drawn.shape[-1] // 128)
    for inset, value in ((0, 0), (width, 255)):
        a, b = first + inset, last - inset
        for lines in (slice(a, a + width), slice(b - width, b)):
            drawn[:, lines, a:b] = value
            drawn[:, a:b, lines] = value
    return drawn
