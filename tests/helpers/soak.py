"""A grid of 24 cells under a killer for hours; at the end its scores and artifacts must be those of a quiet run.

    SVGBENCH_RELIABILITY=faults.jsonl python tests/helpers/soak.py --minutes 30

Two lanes work side by side, each with its own output directory, the second with two processes on one directory. After a random time a
process is killed (SIGKILL), stopped by a signal, or given a full disk; between two processes a bit is flipped or a file is cut.
Checked after every trial: an artifact that was finished is still there with the same manifest; a stop signal ends the process within
10 s with status 4; a full disk is status 5; a damage is reported by the next command that reads the file, with status 2 or (a cell of
a grid) 3. At the end of each round all digests of the store and all scores equal those of the quiet run. Prints the counts as JSON and
notes them for the table.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from commands import forked
from grids import digests, numbers
from measured import note

GRID = """base: smoke
run: s
set:
  scores: {segmentation.enabled: false, probe.epochs: 1}
  sampling: {steps: [2], guidance: [1.0]}
axes:
  encoder.card: [dinov3, mae, siglip]
  autoencoder.align: [none, frozen]
  diffusion.shift: [0.3, 0.5]
  seed: [0, 1]
"""
CELLS = 24
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
STOP_SECONDS = 10.0
DISK_BYTES = 256 << 20
CONSUMED = ("autoencoder", "statistics", "diffusion", "samples")
"""Stages whose artifacts others read."""


@dataclass
class Lane:
    """One output directory under attack, and what was counted."""

    place: Path
    quiet: Path
    draw: random.Random
    processes: int
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    """What should not have happened, in words."""
    finished: dict[str, bytes] = field(default_factory=dict)
    """Manifest of every artifact seen finished, by its path below the store."""

    def __post_init__(self) -> None:
        self.out = self.place / "runs"
        self.grid = self.place / "grid.yaml"
        self.place.mkdir(parents=True, exist_ok=True)
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", self.place], capture_output=True)
        self.disk = mounted.returncode == 0
        self.grid.write_text(GRID)

    def close(self) -> None:
        if self.disk:
            subprocess.run(["umount", "-l", self.place], check=False)

    def work(self, seconds: float) -> None:
        """Rounds until the time is up; the last one is finished quietly, so that every kill is followed by a comparison."""
        end = time.monotonic() + seconds
        while True:
            shutil.rmtree(self.out, ignore_errors=True)
            self.finished = {}
            while not (done := self.trial(last=time.monotonic() >= end)):
                pass
            self.counts["rounds"] += 1
            self.compare(done)
            if time.monotonic() >= end:
                return

    def trial(self, *, last: bool = False) -> bool:
        """One start of the command and what befalls it; whether the grid was finished by it."""
        kind = "quiet" if last else self.draw.choices(["kill", "stop", "disk", "damage"], [86, 8, 3, 3])[0]
        if kind == "disk" and not self.disk:
            kind = "kill"
        harmed = self.damage() if kind == "damage" else None
        if kind == "damage" and harmed is None:
            kind = "kill"
        ballast = self.fill() if kind == "disk" else None
        children = [self.start(n) for n in range(1 if last or kind == "damage" else self.processes)]
        if kind in ("kill", "stop"):
            self.strike(children, kind)
        statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children if child]
        if ballast:
            ballast.unlink()
        words = [(self.place / f"said-{n}").read_text(errors="replace") for n in range(len(children))]
        self.judge(kind, statuses, words, harmed)
        self.look(harmed)
        return 0 in statuses

    def start(self, number: int) -> int:
        """The command in a fork, on one thread."""
        return forked(self.place / f"said-{number}", "ablate", self.grid, "--out", self.out, "--threads", 1)

    def strike(self, children: list[int], kind: str) -> None:
        """Kills or stops every child after a time of its own."""
        start = time.monotonic()
        times = sorted((self.draw.choice([0.3, 1.0, 2.5]) * self.draw.random(), n) for n in range(len(children)))
        for after, n in times:
            time.sleep(max(0.0, start + after - time.monotonic()))
            done, status = os.waitpid(children[n], os.WNOHANG)
            if done:
                self.counts["ended before"] += 1
                if os.waitstatus_to_exitcode(status) not in (0, 7):
                    self.fault(f"ended by itself with {os.waitstatus_to_exitcode(status)}", (self.place / f"said-{n}").read_text())
                children[n] = 0
                continue
            if kind == "kill":
                os.kill(children[n], signal.SIGKILL)
                self.counts["kills"] += 1
                continue
            number = self.draw.choice(STOPS)
            os.kill(children[n], number)
            self.counts["stops"] += 1
            began = time.monotonic()
            while not (ended := os.waitpid(children[n], os.WNOHANG))[0]:
                if time.monotonic() - began > STOP_SECONDS:
                    self.fault(f"{number.name}: not ended after {STOP_SECONDS:.0f} s")
                    os.kill(children[n], signal.SIGABRT)  # prints where every thread is
                    ended = os.waitpid(children[n], 0)
                    break
                time.sleep(0.01)
            children[n] = 0
            if (status := os.waitstatus_to_exitcode(ended[1])) not in (4, 0):
                self.fault(f"{number.name}: status {status}", (self.place / f"said-{n}").read_text(errors="replace"))

    def judge(self, kind: str, statuses: list[int], words: list[str], harmed: Path | None) -> None:
        """Holds statuses and sentences to the contract."""
        if kind == "disk":
            self.counts["full disks"] += 1
            for status, said in zip(statuses, words, strict=True):
                if status not in (5, 0, 7):
                    self.fault(f"full disk: status {status}", said)
        elif kind == "damage":
            self.counts["damages"] += 1
            if statuses in ([2], [3]) and harmed is not None and harmed.parent.name in words[0]:
                self.counts["damages noticed"] += 1
            else:
                self.fault(f"damage of {harmed}: statuses {statuses}", words[0])
            if harmed is not None:
                shutil.rmtree(harmed.parent)  # what the sentence advises
        elif kind == "quiet" and statuses != [0]:
            self.fault(f"undisturbed: statuses {statuses}", words[0])
        for said in words:
            if "fault of svgbench" in said or "Traceback" in said:
                self.fault("not a sentence", said)

    def look(self, harmed: Path | None) -> None:
        """Finished artifacts are still there with the manifest they had."""
        now = {str(path.relative_to(self.out)): path.read_bytes() for path in self.manifests()}
        if harmed is not None:
            self.finished.pop(str((harmed.parent / "manifest.json").relative_to(self.out)), None)
        for name, content in self.finished.items():
            if now.get(name) != content:
                self.fault(f"{name} {'is lost' if name not in now else 'was changed'}")
        self.finished |= now

    def manifests(self) -> list[Path]:
        """Of all finished artifacts."""
        return [path for path in self.out.glob("store/*/*/manifest.json") if not path.parent.name.endswith(".partial")]

    def damage(self) -> Path | None:
        """Flips a bit or cuts the end of a file that the next command must read: of an artifact whose consumers are not made yet."""
        places = {path.parent.name: path.parent for path in self.manifests()}
        used = {key[:32] for path in places.values() for key in json.loads((path / "manifest.json").read_text())["inputs"].values()}
        waiting = [place for name, place in sorted(places.items()) if name not in used and place.parent.name in CONSUMED]
        if not waiting:
            return None
        files = [f for f in sorted(self.draw.choice(waiting).iterdir()) if f.is_file() and f.stat().st_size and f.suffix != ".jsonl"]
        file = self.draw.choice(files)
        content = bytearray(file.read_bytes())
        if self.draw.random() < 0.5:
            content[self.draw.randrange(len(content))] ^= 1 << self.draw.randrange(8)
        else:
            del content[self.draw.randrange(len(content)) :]
        file.write_bytes(bytes(content))
        return file

    def fill(self) -> Path:
        """A file that leaves little of the lane's own file system."""
        self.out.mkdir(exist_ok=True)
        ballast, free = self.place / "ballast", shutil.disk_usage(self.place).free
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(free - self.draw.randrange(1, 1 << 20), 1))
        return ballast

    def compare(self, done: bool) -> None:
        """Scores and digests are those of the quiet run."""
        ours, theirs = digests(self.out), digests(self.quiet)
        self.counts["artifacts compared"] += len(theirs)
        for key, files in theirs.items():
            if ours.get(key) != files:
                names = sorted({name for name, _ in ours.get(key, {}).items() ^ files.items()})
                self.fault(f"artifact {key[:12]} differs from the quiet run's in {', '.join(names)}")
        if numbers(self.out) != numbers(self.quiet):
            self.fault("scores differ from the quiet run's")
        left = [p for p in self.out.rglob("*") if ".writing-" in p.name or p.name == "checkpoints"]
        if left:
            self.fault(f"left behind: {left[0]} and {len(left) - 1} more")

    def fault(self, words: str, said: str = "") -> None:
        self.faults.append(words + (": " + said.strip()[-6000:] if said else ""))


def _lane(place: Path, quiet: Path, seed: int, processes: int, seconds: float, answer: Any) -> None:
    """A lane in a process of its own."""
    _warm()
    lane = Lane(place, quiet, random.Random(seed), processes)
    try:
        lane.work(seconds)
    finally:
        lane.close()
        answer.put((dict(lane.counts), lane.faults))


def _warm() -> None:
    """Imports once what every child needs."""
    import timm  # noqa: F401
    import torch

    import svgbench.cli.main
    import svgbench.stages.autoencoder
    import svgbench.stages.diffusion
    import svgbench.stages.perception
    import svgbench.stages.scores  # noqa: F401

    torch.set_num_threads(1)


def soak(minutes: float, *, seed: int = 0) -> dict[str, Any]:
    """Counts of both lanes and all violations."""
    with tempfile.TemporaryDirectory() as folder:
        base, quiet = Path(folder), Path(folder) / "quiet"
        quiet.mkdir()
        (quiet / "grid.yaml").write_text(GRID)
        words = ["ablate", str(quiet / "grid.yaml"), "--out", str(quiet / "runs"), "--threads", "1", "--slots", "2"]
        subprocess.run([sys.executable, "-m", "svgbench", *words], check=True, capture_output=True)
        assert len(numbers(quiet / "runs")) == CELLS
        context = multiprocessing.get_context("spawn")
        answer = context.Queue()
        given = [(base / f"lane-{n}", quiet / "runs", seed + n, n + 1, 60 * minutes, answer) for n in range(2)]
        lanes = [context.Process(target=_lane, args=one) for one in given]
        for lane in lanes:
            lane.start()
        found = [answer.get() for _ in lanes]
        for lane in lanes:
            lane.join()
    counts = sum((Counter(one) for one, _ in found), Counter())
    return {"minutes": minutes, "seed": seed, **counts, "violations": [fault for _, faults in found for fault in faults]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    result = soak(given.minutes, seed=given.seed)
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    note("SVGBENCH_RELIABILITY", soak=result)
    sys.exit(1 if result["violations"] else 0)
