"""How many files one thing takes: a toy of each kind is added to a copy of the package and used.

``EDITS`` is what an author writes: file -> (line after which, text). The table of docs/extending.md
names the same files.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
CHOICES, SOLVERS = "config/choices.py", "nets/sampler.py"
NETWORK = """
import torch
from svgbench.backends.network import Network

class Squares(Network):
    channels, stride = 3, 8

    def __init__(self):
        super().__init__()
        self.model = torch.nn.AvgPool2d(8)

    def encode(self, pixels):
        return self.model(pixels)

def {name}(card, state):
    return Squares()
"""
EDITS: dict[str, dict[str, list[tuple[str, str]]]] = {
    "sampler": {
        CHOICES: [("SAMPLERS: Mapping[str, SamplerChoice] = {", '    "toy": SamplerChoice("flow", (0.0,)),')],
        SOLVERS: [("SOLVERS: Mapping[str, Solver] = {", '    "toy": Solver(euler),')],
    },
    "alignment": {
        CHOICES: [("ALIGNMENTS: Mapping[str, AlignmentChoice] = {", '    "toy": AlignmentChoice("toy", True),')],
        "nets/alignment.py": [("MAPS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {", '    "toy": one_scale,')],
    },
    "objective": {
        CHOICES: [
            (
                "OBJECTIVES: Mapping[str, ObjectiveChoice] = {",
                '    "toy": ObjectiveChoice("half velocities", "halves", True, False, False),',
            ),
            ("SAMPLERS: Mapping[str, SamplerChoice] = {", '    "toy-euler": SamplerChoice("toy", (0.0,)),'),
        ],
        SOLVERS: [("SOLVERS: Mapping[str, Solver] = {", '    "toy-euler": Solver(euler),')],
        "nets/objectives.py": [
            ("from svgbench.nets.training_pair import TrainingPair", "from svgbench.nets import toy"),
            (
                "OBJECTIVES: Mapping[str, Objective] = {",
                '    "toy": Objective(wrap=lambda sit, prediction: toy.Half(sit), pair=_flow_pair,\n'
                "        losses=lambda model, prediction, data, pair: flow.losses(2 * prediction, pair.target),\n"
                "        as_velocity=lambda model: model),",
            ),
        ],
        "nets/toy.py": [
            (
                "",
                "from torch import nn\n\n\nclass Half(nn.Module):\n"
                '    objective = "toy"\n\n'
                "    def __init__(self, sit):\n"
                "        super().__init__()\n"
                "        self.sit, self.classes = sit, sit.classes\n\n"
                "    def forward(self, x, t, labels, tap=None):\n"
                "        return self.sit(x, t, labels) / 2\n",
            )
        ],
    },
    "sampling knob": {
        "config/sampling.py": [
            ("    labels: Literal[", '    guidance_offset: float = 0.0\n    """Added to the guidance scale."""'),
            ("    guided_channels: int | None = None", '    guidance_offset: float = 0.0\n    """Added to the guidance scale."""'),
        ],
        "stages/graph.py": [('          slice=("sampling.count",', '                 "sampling.guidance_offset",')],
        "nets/guidance.py": [
            (
                "    schedule = parse_schedule(sampling.schedule)",
                '    sampling = sampling.model_copy(update={"guidance": sampling.guidance + sampling.guidance_offset})',
            )
        ],
    },
    "metric": {
        "metrics/declared.py": [('        ("sfid", "sFID"', '        ("toy", "Toy", "higher", 1, ""),')],
        "metrics/generation.py": [
            (
                "    scores, runtime = distances(comparison, frechet), comparison.runtime",
                '    scores.append(comparison.score("toy", 4.0, (None, None), comparison.name("toy")))',
            )
        ],
    },
    "backend": {
        "config/backends.py": [("BACKENDS = {", '    "toy-own": Backend("svgbench.backends.from_toy:open_network"),')],
        "backends/from_toy.py": [("", NETWORK.format(name="open_network"))],
    },
}
LIMITS = {"sampler": 2, "alignment": 2, "objective": 4, "sampling knob": 4, "metric": 2, "backend": 2}
"""Kind -> the most Python files that one takes."""


def add(root: Path, edits: dict[str, list[tuple[str, str]]]) -> None:
    """Puts each text after the first line that begins with its anchor; a new file where the anchor is empty."""
    for name, texts in edits.items():
        path = root / "svgbench" / name
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)  # a link to the real file
        for anchor, text in texts:
            at = next((number for number, line in enumerate(lines, 1) if anchor and line.startswith(anchor)), len(lines))
            assert not anchor or lines[at - 1].startswith(anchor), f"{name} has no line that begins with {anchor!r}"
            lines.insert(at, text)
        path.write_text("\n".join(lines) + "\n")


def linked(root: Path) -> None:
    """The package in another place, each file a link."""
    for path in (ROOT / "svgbench").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            place = root / path.relative_to(ROOT)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(path)


@pytest.fixture(scope="module")
def used(tmp_path_factory) -> dict:
    """What came of every toy, each added to one copy of the package."""
    root = tmp_path_factory.mktemp("extended")
    linked(root)
    for edits in EDITS.values():
        add(root, edits)
    (root / "toy_backend.py").write_text(NETWORK.format(name="squares"))
    about = root / "toy_backend-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-backend\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[svgbench.backends]\ntoy-backend = toy_backend:squares\n")
    shelf = root / "shelf"
    shelf.mkdir()
    card = yaml.safe_load((ROOT / "encoders" / "dinov3-tiny.yaml").read_text())
    for backend in ("toy-backend", "toy-own"):
        changed = {**card, "backend": backend, "channels": 3, "stride": 8, "patch": 1}
        (shelf / f"{backend}.yaml").write_text(yaml.safe_dump(changed))
    grid = {"asks": "which sampler?", "compares": "nothing", "base": "preset-tiny", "axes": {"sampling.sampler": ["euler", "toy"]}}
    (shelf / "toy-grid.yaml").write_text(yaml.safe_dump(grid))
    (shelf / "toy-table.yaml").write_text(
        yaml.safe_dump({"title": "Toy", "grids": ["toy-grid"], "columns": [{"metric": "gfid"}, {"metric": "toy"}]})
    )
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    script = ROOT / "tests" / "helpers" / "use_toys.py"
    done = subprocess.run(
        [sys.executable, str(script), str(root), str(shelf)], capture_output=True, text=True, cwd=root, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def documented() -> dict[str, tuple[int, set[str]]]:
    """Kind -> count of files and the files, by the table of docs/extending.md."""
    rows = re.findall(r"^\| an? (.+?) \|\s*(\d+) \| (.+) \|$", (ROOT / "docs" / "extending.md").read_text(), re.MULTILINE)
    return {kind: (int(count), set(re.findall(r"`([^`]+)`", files))) for kind, count, files in rows}


@pytest.mark.parametrize("kind", LIMITS)
def test_a_toy_takes_the_files_of_the_documented_table_and_no_more_than_the_limit(kind):
    count, files = documented()[{"sampling knob": "sampling setting", "metric": "metric in an existing stage"}.get(kind, kind)]
    assert {name.replace("toy", "NAME") for name in EDITS[kind]} == files
    assert len(files) == count <= LIMITS[kind]


def test_a_sampler_is_configured_counted_shown_and_run(used):
    assert used["sampler"] == {"configured": "toy", "evaluations": 4.0, "as euler": True, "in the help": True}


def test_an_alignment_is_configured_frozen_and_applied(used):
    assert used["alignment"] == {"configured": "toy", "freezes": True, "finite": True}


def test_an_objective_is_configured_trained_opened_sampled_and_refuses_other_samplers(used):
    toy = used["objective"]
    assert (toy["configured"], toy["opened as"], toy["sampled"]) == ("toy", "toy", 96) and toy["loss"] > 0
    assert toy["refused"].endswith("sampling.sampler euler does not fit diffusion.objective toy; use toy-euler.")


def test_a_sampling_knob_is_configured_in_the_key_in_the_protocol_and_heard(used):
    assert used["knob"] == {"configured": 0.5, "in the key": True, "in the protocol": 0.5, "changes samples": True}


def test_a_metric_is_scored_with_its_protocol_and_shown(used):
    assert used["metric"] == {"value": 4.0, "measure": "toy", "title": "Toy", "columns": ["gfid", "toy"]}


def test_a_backend_of_ours_opens_its_cards(used):
    assert used["backend"] == [2, 3, 4, 4]


def test_a_backend_from_outside_a_layout_and_a_grid_take_no_file_of_ours(used):
    assert used["yaml only"] == {"backend": [2, 3, 4, 4], "grid": ["sampler-euler", "sampler-toy"], "layout": "Toy"}


@cache
def names_in(path: Path) -> frozenset[str]:
    """Identifiers of a module, and strings with the last part of dotted ones, docstrings aside."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    bodies = (parent.body for parent in ast.walk(tree) if isinstance(parent, ast.Module | ast.ClassDef | ast.FunctionDef))
    docs = {id(node.value) for body in bodies for node in body if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            found |= {node.value, node.value.rsplit(".", 1)[-1]}
        found |= {name for field in ("id", "attr", "arg", "name") if isinstance(name := getattr(node, field, None), str)}
    return frozenset(found)


def modules_with(name: str) -> set[str]:
    """Modules whose code has the name as a string or an identifier."""
    package = ROOT / "svgbench"
    return {str(path.relative_to(package)) for path in package.rglob("*.py") if name in names_in(path)}


@pytest.mark.parametrize(
    ("member", "places"),
    [
        ("midpoint", {"config/choices.py", "nets/sampler.py"}),
        ("dopri5", {"config/choices.py", "nets/sampler.py"}),
        ("sde-euler", {"config/choices.py", "nets/sampler.py"}),
        ("whiten", {"config/choices.py", "nets/alignment.py"}),
        ("ddpm", {"config/choices.py", "nets/objectives.py", "nets/sampler.py", "nets/ddpm.py", "nets/mar.py"}),  # MAR's head is one
        (
            "guided_channels",
            {"config/sampling.py", "config/build.py", "config/choices.py", "stages/graph.py", "nets/guidance.py", "nets/sampler.py"},
        ),
    ],
)
def test_members_that_exist_are_named_in_no_further_module(member, places):
    documented = {"releases/settings.py", "api/models.py"}  # what an official release documents; the keywords and defaults of sample()
    assert modules_with(member) - documented == places
