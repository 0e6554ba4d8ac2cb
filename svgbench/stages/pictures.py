"""Stages that write images: the image store, reconstructions, the overview, and sheets of samples."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from svgbench.config import schema
from svgbench.errors import BadInput
from svgbench.images import packed
from svgbench.images.packing import pack
from svgbench.images.store import open_images
from svgbench.machine.blocks import Array, Blocks
from svgbench.machine.checkpoints import FOLDER
from svgbench.machine.files import write_atomic
from svgbench.machine.runtime import Runtime
from svgbench.metrics.samples import sent_as_uint8, to_uint8
from svgbench.stages.tokenizers import BLOCK, open_tokenizer, to_floats

SHOWN = 16
"""Largest number of classes on a sheet of samples if no labels are given."""


def images(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Packs the pre-cropped uint8 store of training and validation images; a folder that is already packed is used directly."""
    data = schema.Data.model_validate(slice_["data"])
    if not data.drawn and packed.holds(Path(data.source).expanduser()):
        packed.adopt(data, out)
    else:
        pack(data, out, runtime)
    about = packed.read(out)
    return {"counts": about["counts"], "skipped": len(about["skipped"])}


def reconstructions(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Encodes and decodes the validation images: ``reconstructions.npy`` uint8 [N, 3, H, W], in the order of the validation set. Ranks
    share the blocks."""
    collection = open_images(inputs["images"])
    val = collection.val
    tokenizer = open_tokenizer(inputs["autoencoder"], runtime)

    @torch.no_grad()
    def decoded(items: range) -> Callable[[], tuple[np.ndarray]]:
        originals = to_floats(val.batch(torch.tensor(items)), runtime.torch_device)
        images = sent_as_uint8(tokenizer.decode(tokenizer.encode(originals)))
        return lambda: (images().numpy(),)

    size = collection.resolution
    Blocks(
        out / FOLDER / "reconstructions", [Array(out / "reconstructions.npy", np.uint8, (3, size, size))], count=len(val), size=BLOCK,
        runtime=runtime, label="reconstructions",
    ).run(decoded, behind=runtime.torch_device.type == "cuda")  # fmt: skip
    return {"images_seen": len(val)}


def overview(slice_: dict[str, Any], inputs: dict[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """``overview.png``: an original of each class (the first twelve), its reconstruction, and samples of the class below it."""
    collection = open_images(inputs["images"])
    known = torch.as_tensor(collection.val.labels)
    labels = known.unique()[:12]
    picked = torch.stack([(known == label).nonzero()[0, 0] for label in labels])
    decoded = np.load(inputs["reconstructions"] / "reconstructions.npy", mmap_mode="r")[picked.numpy()]
    drawn = np.load(inputs["samples"] / "samples.npy", mmap_mode="r")
    drawn_labels = np.load(inputs["samples"] / "labels.npy")
    rows = [("originals", collection.val.batch(picked).numpy()), ("reconstructions", decoded)]
    for number in range(2):
        rows.append(("samples" if number == 0 else "", np.stack([_nth(drawn, drawn_labels, int(label), number) for label in labels])))
    sheet(rows, [collection.classes[int(label)] for label in labels]).save(out / "overview.png")
    return {}


def _nth(images: np.ndarray, labels: np.ndarray, label: int, number: int) -> np.ndarray:
    """The n-th sample of a class, or the n-th of all samples if the class has fewer."""
    of_label = np.flatnonzero(labels == label)
    return images[of_label[number] if len(of_label) > number else number % len(images)]


def sheet(rows: list[tuple[str, np.ndarray]], columns: list[str]) -> Image.Image:
    """One picture with rows of uint8 images [N, 3, H, W] and names of rows and columns; small images are enlarged by an integer factor."""
    side = rows[0][1].shape[-1]
    scale = max(1, 96 // side)
    cell, gap, left, top = side * scale, 6, 110, 22
    width, height = left + len(columns) * (cell + gap), top + len(rows) * (cell + gap)
    canvas = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(canvas)
    for i, name in enumerate(columns):
        pen.text((left + i * (cell + gap), 6), name, fill="black")
    for j, (name, pictures) in enumerate(rows):
        y = top + j * (cell + gap)
        pen.text((6, y + cell // 2 - 6), name, fill="black")
        for i, picture in enumerate(pictures):
            tile = Image.fromarray(np.ascontiguousarray(np.moveaxis(picture, 0, -1)))
            canvas.paste(tile.resize((cell, cell), Image.Resampling.NEAREST), (left + i * (cell + gap), y))
    return canvas


def sample_sheet(slice_: dict[str, Any], inputs: dict[str, Path], to: Path, runtime: Runtime, *, labels: list[int] | None) -> None:
    """Draws one sample per label (if None, one for each of the first ``SHOWN`` classes) and writes one PNG."""
    from svgbench.stages.samples import Generator, protocol_of

    generator = Generator(inputs, runtime, slice_["seed"])
    count = len(generator.classes)
    wanted = list(range(min(count, SHOWN))) if labels is None else labels
    wrong = [label for label in wanted if not 0 <= label < count]
    if wrong:
        raise BadInput(f"class {wrong[0]} does not exist; this run has classes 0 to {count - 1} ({', '.join(generator.classes[:12])}).")
    pictures: Tensor = generator.images(torch.arange(len(wanted)), torch.tensor(wanted), protocol_of(slice_["sampling"], inputs))
    image = sheet([("", to_uint8(pictures).numpy())], [generator.classes[label] for label in wanted])
    buffer = io.BytesIO()
    image.save(buffer, format="png")
    write_atomic(to, buffer.getvalue())
