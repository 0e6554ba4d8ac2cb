"""``data``: pack a source of images into the pre-cropped store once, and verify what was packed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from svgbench.cli.console import table_of
from svgbench.cli.selection import pasted
from svgbench.config.schema import DRAWN, Data
from svgbench.errors import BadData
from svgbench.images.scan import examples
from svgbench.tables.table import Table

app = typer.Typer(no_args_is_help=True, help="Images: pack a source once, verify a source or a packed set.")


@app.command("pack")
def pack(
    source: Annotated[str, typer.Argument(help="Class folders, webdataset shards (*.tar), or a Hugging Face dataset (arrow or parquet).")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The directory to write; give it to --data afterwards.")],
    resolution: Annotated[
        int, typer.Option("--resolution", metavar="PIXELS", min=16, max=1024, help="Side after the ADM centre crop, 16 to 1024.")
    ] = 256,
    workers: Annotated[int | None, typer.Option("--workers", metavar="N", min=1, help="Threads. Default: one for every CPU core.")] = None,
    train_images: Annotated[
        int | None, typer.Option("--train-images", metavar="N", min=1, help="Pack only N training images, evenly over the classes.")
    ] = None,
    val_images: Annotated[
        int | None, typer.Option("--val-images", metavar="N", min=1, help="Pack only N validation images, evenly over the classes.")
    ] = None,
) -> None:
    """Crop every image once and store it as uint8 arrays. The same command resumes after a stop."""
    from svgbench.images import packed, packing, sources
    from svgbench.images.listing import root_of
    from svgbench.lab.store import locked
    from svgbench.machine.files import guarded
    from svgbench.machine.runtime import Runtime

    if source in DRAWN:
        raise BadData(f"'{source}' are drawn when a run needs them; give a folder of images to pack.")
    root = root_of(source, advice="give a folder of class folders, of shards (*.tar) or of a Hugging Face dataset")
    if packed.holds(root):
        raise BadData(f"{source} is packed already; give it to a run with --data {source}.")
    if root.resolve() in to.resolve().parents:
        raise BadData(f"{to}: lies inside the images that are packed; give --to a directory elsewhere.")
    if to.exists() and not to.is_dir():
        raise BadData(f"{to}: is not a directory; give --to an empty or a new one.")
    data = Data(source=str(Path(source).expanduser().absolute()), resolution=resolution, train_images=train_images, val_images=val_images)
    data = data.model_copy(update={"identity": sources.identity(data)})
    with guarded(to):
        to.mkdir(parents=True, exist_ok=True)
        if foreign := [p.name for p in to.iterdir() if not packing.is_own(p.name)]:
            raise BadData(f"{to}: holds other files ('{min(foreign)}'); give --to an empty or a new directory.")
    with guarded(to), locked(to / packing.LOCK, what=f"packing into {to}"):
        if packed.holds(to):
            about = packed.read(to)
            if not packing.is_of(about, data):
                raise BadData(f"{to}: holds a store of other images or settings; give another --to, or remove the directory.")
            for _ in packed.verify(to, about, reread=False):
                pass
        else:
            about = packing.pack(data, to, Runtime(device="cpu", workers=workers))
            packed.record(to, about)
        (to / packing.LOCK).unlink()
    _show(to, about, [f"use it: {pasted('run', '--data', to, '--set', f'data.resolution={resolution}')}"])


@app.command("verify")
def verify(directory: Annotated[Path, typer.Argument(help="A directory made by 'svgbench data pack', or a source of images.")]) -> None:
    """Read every byte: compare a packed set with its digests, shapes and labels, or a source with the digests of its last reading."""
    from svgbench.images import packed, packing
    from svgbench.images.listing import root_of

    root_of(str(directory), advice="give a source of images, or a directory made by 'svgbench data pack'")
    if (directory / packing.JOURNAL).is_file():
        raise BadData(f"{directory}: is not finished; run svgbench data pack again.")
    if not packed.holds(directory):
        _verify_source(directory)
        return
    place, about, _ = packed.resolved(directory)
    if "files" not in about:
        raise BadData(f"{directory}: was made by a version without digests; pack the images again.")
    for _ in packed.verify(place, about):
        pass
    from svgbench.images.store import open_images, reading_speed

    speed = reading_speed(open_images(directory).train)
    notes = ["every digest, shape and label is as packed", f"reads {speed:,.0f} images/s per core in random batches of 256"]
    _show(directory, about, notes)


def _verify_source(directory: Path) -> None:
    """Reads the files of a source of images, or of a folder of images with masks or depth maps."""
    from svgbench.images import catalogue, dense_sets, sources

    kind = dense_sets.kind_of(directory)
    reading = dense_sets.verify(kind, directory) if kind else sources.files_of(directory, reread=True)
    unreadable = [path for path, digest in reading.digests.items() if digest == catalogue.UNREADABLE]
    if unreadable:
        count = f"{len(unreadable):,} of {len(reading.digests):,} files"
        raise BadData(f"{directory}: {count} cannot be read ({examples(unreadable)}); repair or remove them.")
    parts = {"changed": reading.changed, "added": reading.added, "removed": reading.removed}
    rows = [["read", f"{len(reading.digests):,}", ""], *([word, f"{len(names):,}", examples(names)] for word, names in parts.items())]
    table_of(Table(f"Files of {directory}", ["", "files", "such as"], rows, [f"identity {reading.identity[:16]}"]))


def _show(directory: Path, about: dict[str, Any], notes: list[str]) -> None:
    facts = [f"{about['resolution']} px", f"{len(about['classes'])} classes", f"listing {about['listing'][:12]}"]
    skipped = [f"left out: {entry['path']} ({entry['reason']})" for entry in about["skipped"]]
    more = [f"... and {len(skipped) - 20} more in {directory / 'images.json'}"] if len(skipped) > 20 else []
    rows = []
    for name, file in about["files"].items():
        rows.append([name, str(about["counts"][name.split(".")[0]]), f"{file['bytes'] / 1e6:,.1f}", file["sha256"][:16]])
    notes = [", ".join(facts), *skipped[:20], *more, *notes]
    table_of(Table(f"Images packed in {directory}", ["file", "images", "MB", "sha256"], rows, notes))
