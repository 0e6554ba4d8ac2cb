"""Lists the files below a folder: follows links, detects loops, and counts what is skipped. No torch.

All readers of users' folders (class folders, shards, datasets, dense sets, folders of images) list them here.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from svgbench.errors import BadData

SYSTEM_FOLDERS = ("@eaDir", "__MACOSX", "lost+found", "$RECYCLE.BIN", "System Volume Information")
"""Folders that operating systems create; treated as hidden, like names that begin with a dot."""
EXAMPLES = 3
"""Number of names given as examples in a message."""


class ListedFile(NamedTuple):
    """A file."""

    path: str
    """Relative to the root, with forward slashes."""
    stamp: str
    """Size, times and inode (``stamp_of``); empty for a broken link."""

    @property
    def size(self) -> int:
        """Bytes; 0 for a broken link."""
        return int(self.stamp.partition(" ")[0] or 0)


@dataclass
class Skipped:
    """Files and folders that a listing skips, by reason."""

    suffixes: Counter[str] = field(default_factory=Counter)
    """Files with other suffixes."""
    hidden: int = 0
    dangling: list[str] = field(default_factory=list)
    """Broken symbolic links."""
    loops: list[str] = field(default_factory=list)
    """Links to a folder above them, or to one that is already listed."""
    special: list[str] = field(default_factory=list)
    """Pipes, sockets and devices."""
    outside: int = 0
    """Images of a split that are in no class folder."""
    twins: list[str] = field(default_factory=list)
    """Files whose names differ from another's only in the suffix; only one file is used for each name."""
    others: list[str] = field(default_factory=list)
    """Folders or files that are neither for training nor for validation."""
    notes: list[str] = field(default_factory=list)
    """Choices to report to the user, such as that the test split is used for validation."""

    def sentence(self, root: Path) -> str:
        """One sentence for the user; empty when nothing was skipped and there is no note."""
        parts = []
        if self.suffixes:
            common = ", ".join(f"{number:,} {suffix or 'without singular'}" for suffix, number in self.suffixes.most_common(EXAMPLES))
            parts.append(
                f"{_files(self.suffixes.total())} with other suffixes ({common}{', ...' if len(self.suffixes) > EXAMPLES else ''})"
            )
        if self.outside:
            parts.append(f"{self.outside:,} image{'' if self.outside == 1 else 's'} outside class folders")
        if self.hidden:
            parts.append(f"{self.hidden:,} hidden")
        for names, singular, plural in (
            (self.twins, "file with the name of another and a different suffix", "files with the names of others and different suffixes"),
            (self.loops, "link to a folder that is listed already", "links to folders that are listed already"),
            (self.dangling, "broken link", "broken links"),
            (self.special, "pipe or device", "pipes or devices"),
            (self.others, "folder or file of neither split", "folders or files of neither split"),
        ):
            if names:
                parts.append(f"{len(names):,} {singular if len(names) == 1 else plural} ({examples(sorted(names))})")
        notes = [*dict.fromkeys(self.notes), *([f"skipped {', '.join(parts)}"] if parts else [])]
        return f"{root}: {'; '.join(notes)}." if notes else ""


def _files(count: int) -> str:
    return f"{count:,} file{'' if count == 1 else 's'}"


def examples(names: Sequence[str], limit: int = EXAMPLES) -> str:
    """The first names, separated by commas, with dots when there are more."""
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def stamp_of(state: os.stat_result) -> str:
    """Size, times of modification and status change in nanoseconds, and inode: one of them changes when the file does."""
    return f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino}"


def stat_file(root: Path, path: str) -> ListedFile:
    """A file below a root; its stamp is empty when it does not exist."""
    try:
        return ListedFile(path, stamp_of(os.stat(root / path)))
    except OSError:
        return ListedFile(path, "")


def walk(root: Path, start: str, suffixes: tuple[str, ...], skipped: Skipped, *, links: bool = True) -> Iterator[ListedFile]:
    """Yields regular files with one of the suffixes (in lower case) below ``root/start``, those in real folders before linked ones.

    Links are followed, except to a folder above them or to one already listed in this walk. A broken link with one of the suffixes has an
    empty stamp; reading it raises. Without ``links``, all links are ignored. Raises BadData when a folder cannot be read.
    """
    visited = _ancestors(root / start)
    pending, linked_folders = [start], list[str]()
    while pending or linked_folders:
        place = pending.pop() if pending else linked_folders.pop(0)
        folder = root / place
        try:
            own = os.stat(folder)
            if (own.st_dev, own.st_ino) in visited:
                skipped.loops.append(place)
                continue
            visited.add((own.st_dev, own.st_ino))
            with os.scandir(folder) as entries:
                entries_here = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise BadData(f"{folder}: cannot be read ({error.strerror}); give it the right permissions or remove it.") from None
        folders = []
        for entry in entries_here:
            path = f"{place}/{entry.name}" if place else entry.name
            if _is_hidden(entry.name):
                skipped.hidden += 1
                continue
            matches = entry.name.lower().endswith(suffixes)
            try:
                linked = entry.is_symlink()
                if linked and not links:
                    continue
                if not linked and entry.is_dir():
                    folders.append(path)
                    continue
                state = entry.stat() if linked or matches else None
            except OSError:
                skipped.dangling.append(path)
                if matches:
                    yield ListedFile(path, "")
                continue
            if state is not None and stat.S_ISDIR(state.st_mode):
                linked_folders.append(path)
            elif not matches:
                skipped.suffixes[os.path.splitext(entry.name)[1].lower()] += 1
            elif state is not None and not stat.S_ISREG(state.st_mode):
                skipped.special.append(path)
            elif state is not None:
                yield ListedFile(path, stamp_of(state))
        pending += reversed(folders)


def folders(directory: Path, skipped: Skipped | None = None) -> list[str]:
    """Sorted names of the folders in a directory, including linked and excluding hidden ones; broken links are added to ``skipped``.
    Raises BadData when the directory cannot be read."""
    try:
        with os.scandir(directory) as entries:
            visible = [entry for entry in entries if not _is_hidden(entry.name)]
    except OSError as error:
        raise BadData(f"{directory}: cannot be read ({error.strerror}); give it the right permissions or remove it.") from None
    if skipped is not None:
        skipped.dangling += sorted(entry.name for entry in visible if is_broken_link(entry.path))
    return sorted(entry.name for entry in visible if _is_folder(entry))


def files_in(directory: Path, suffixes: tuple[str, ...], skipped: Skipped | None = None) -> list[str]:
    """Sorted names of the files with one of the suffixes directly in a directory, without hidden ones. Broken links are included, so that
    reading them raises; pipes and devices are added to ``skipped``."""
    with os.scandir(directory) as entries:
        matching = [entry for entry in entries if entry.name.lower().endswith(suffixes) and not _is_hidden(entry.name)]
    if skipped is not None:
        skipped.special += [
            entry.name for entry in matching if os.path.exists(entry.path) and not _is_file(entry) and not _is_folder(entry)
        ]
    return sorted(entry.name for entry in matching if _is_file(entry) or is_broken_link(entry.path))


def is_broken_link(path: str | Path) -> bool:
    """Whether a path is a symbolic link whose target does not exist."""
    return os.path.islink(path) and not os.path.exists(path)


def first_file(root: Path, suffixes: tuple[str, ...]) -> str:
    """The first file with one of the suffixes below a folder, those directly in it first; empty when there is none."""
    file = next(walk(root, "", suffixes, Skipped()), None)
    return file.path if file else ""


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in SYSTEM_FOLDERS


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _ancestors(place: Path) -> set[tuple[int, int]]:
    """(device, inode) of every folder above a path, both as written and with links resolved: a link to one of them is a loop."""
    above = {*Path(os.path.abspath(place)).parents, *Path(os.path.realpath(place)).parents}
    states = [os.stat(folder) for folder in above if folder.is_dir()]
    return {(state.st_dev, state.st_ino) for state in states}
