"""The files below a folder: links followed, loops guarded, and what is passed over counted. No torch.

Every reader of users' folders (class folders, shards, datasets, dense sets, folders of images) lists them here.
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

FURNITURE = ("@eaDir", "__MACOSX", "lost+found", "$RECYCLE.BIN", "System Volume Information")
"""Folders that systems leave in those of users; hidden, as what begins with a dot is."""
NAMED = 3
"""So many names of a kind are given as examples."""


class Found(NamedTuple):
    """A file."""

    path: str
    """Below the root, with forward slashes."""
    stamp: str
    """Size, times and inode (``stamp_of``); empty for a broken link."""

    @property
    def size(self) -> int:
        """Bytes; 0 for a broken link."""
        return int(self.stamp.partition(" ")[0] or 0)


@dataclass
class Passed:
    """What a listing passes over."""

    suffixes: Counter[str] = field(default_factory=Counter)
    """Files with other suffixes."""
    hidden: int = 0
    dangling: list[str] = field(default_factory=list)
    """Broken symbolic links."""
    loops: list[str] = field(default_factory=list)
    """Links to a folder above them, or to one that is listed already."""
    special: list[str] = field(default_factory=list)
    """Pipes, sockets and devices."""
    outside: int = 0
    """Images of a split that are in no class folder."""
    twins: list[str] = field(default_factory=list)
    """Files whose name differs from another's in its suffix alone, where one file a name is taken."""
    others: list[str] = field(default_factory=list)
    """Folders or files that are neither for training nor for validation."""
    notes: list[str] = field(default_factory=list)
    """Choices that the user is told of, such as that the test split is used for validation."""

    def sentence(self, root: Path) -> str:
        """All of it in one sentence; empty when nothing was passed over and there is no note."""
        parts = []
        if self.suffixes:
            most = ", ".join(f"{number:,} {suffix or 'without one'}" for suffix, number in self.suffixes.most_common(NAMED))
            parts.append(f"{_files(self.suffixes.total())} with other suffixes ({most}{', ...' if len(self.suffixes) > NAMED else ''})")
        if self.outside:
            parts.append(f"{self.outside:,} image{'' if self.outside == 1 else 's'} outside class folders")
        if self.hidden:
            parts.append(f"{self.hidden:,} hidden")
        for names, one, many in (
            (self.twins, "file with the name of another and a different suffix", "files with the names of others and different suffixes"),
            (self.loops, "link to a folder that is listed already", "links to folders that are listed already"),
            (self.dangling, "broken link", "broken links"),
            (self.special, "pipe or device", "pipes or devices"),
            (self.others, "folder or file of neither split", "folders or files of neither split"),
        ):
            if names:
                parts.append(f"{len(names):,} {one if len(names) == 1 else many} ({named(sorted(names))})")
        notes = [*dict.fromkeys(self.notes), *([f"passed over {', '.join(parts)}"] if parts else [])]
        return f"{root}: {'; '.join(notes)}." if notes else ""


def _files(count: int) -> str:
    return f"{count:,} file{'' if count == 1 else 's'}"


def named(names: Sequence[str], most: int = NAMED) -> str:
    """The first of some names, and dots when there are more."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def stamp_of(state: os.stat_result) -> str:
    """What changes when a file does: size, both times in nanoseconds, inode."""
    return f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino}"


def stamped(root: Path, path: str) -> Found:
    """One file below a root; its stamp is empty when it is not there."""
    try:
        return Found(path, stamp_of(os.stat(root / path)))
    except OSError:
        return Found(path, "")


def walk(root: Path, start: str, suffixes: tuple[str, ...], passed: Passed, *, links: bool = True) -> Iterator[Found]:
    """Regular files with one of the suffixes (in lower case) below ``root/start``, real folders before linked ones; BadData when a folder
    cannot be read. Links are followed, but never to a folder above them or one that was listed in this walk. A dangling link with a
    suffix is given with an empty stamp: its reader says that it has vanished. Without ``links`` all links are left out."""
    known = _above(root / start)
    places, later = [start], []
    while places or later:
        place = places.pop() if places else later.pop(0)
        folder = root / place
        try:
            state = os.stat(folder)
            if (state.st_dev, state.st_ino) in known:
                passed.loops.append(place)
                continue
            known.add((state.st_dev, state.st_ino))
            with os.scandir(folder) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise BadData(f"{folder}: cannot be read ({error.strerror}); give it the right permissions or remove it.") from None
        folders = []
        for entry in inside:
            path = f"{place}/{entry.name}" if place else entry.name
            if _is_hidden(entry.name):
                passed.hidden += 1
                continue
            wanted = entry.name.lower().endswith(suffixes)
            try:
                linked = entry.is_symlink()
                if linked and not links:
                    continue
                if not linked and entry.is_dir():
                    folders.append(path)
                    continue
                state = entry.stat() if linked or wanted else None
            except OSError:
                passed.dangling.append(path)
                if wanted:
                    yield Found(path, "")
                continue
            if state is not None and stat.S_ISDIR(state.st_mode):
                later.append(path)
            elif not wanted:
                passed.suffixes[os.path.splitext(entry.name)[1].lower()] += 1
            elif state is not None and not stat.S_ISREG(state.st_mode):
                passed.special.append(path)
            elif state is not None:
                yield Found(path, stamp_of(state))
        places += reversed(folders)


def folders(directory: Path, passed: Passed | None = None) -> list[str]:
    """Sorted names of the folders in a directory, linked ones too, hidden ones left out; ``passed`` collects broken links.
    BadData when the directory cannot be read."""
    try:
        with os.scandir(directory) as entries:
            inside = [entry for entry in entries if not _is_hidden(entry.name)]
    except OSError as error:
        raise BadData(f"{directory}: cannot be read ({error.strerror}); give it the right permissions or remove it.") from None
    if passed is not None:
        passed.dangling += sorted(entry.name for entry in inside if is_broken_link(entry.path))
    return sorted(entry.name for entry in inside if _is_folder(entry))


def own(directory: Path, suffixes: tuple[str, ...], passed: Passed | None = None) -> list[str]:
    """Sorted names of the files with one of the suffixes in a directory itself, hidden ones left out. A broken link is one too,
    so that its reader says that it has vanished; ``passed`` hears of pipes and devices."""
    with os.scandir(directory) as entries:
        inside = [entry for entry in entries if entry.name.lower().endswith(suffixes) and not _is_hidden(entry.name)]
    if passed is not None:
        passed.special += [entry.name for entry in inside if os.path.exists(entry.path) and not _is_file(entry) and not _is_folder(entry)]
    return sorted(entry.name for entry in inside if _is_file(entry) or is_broken_link(entry.path))


def is_broken_link(path: str | Path) -> bool:
    """Whether a path is a symbolic link whose target does not exist."""
    return os.path.islink(path) and not os.path.exists(path)


def first(root: Path, suffixes: tuple[str, ...]) -> str:
    """The first file with one of the suffixes below a folder, its own before those of the folders in it; empty when there is none."""
    found = next(walk(root, "", suffixes, Passed()), None)
    return found.path if found else ""


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in FURNITURE


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


def _above(place: Path) -> set[tuple[int, int]]:
    """Device and inode of every folder above one, both as it is written and as it lies on the disk: a link to one of them is a loop."""
    above = {*Path(os.path.abspath(place)).parents, *Path(os.path.realpath(place)).parents}
    states = [os.stat(folder) for folder in above if folder.is_dir()]
    return {(state.st_dev, state.st_ino) for state in states}
