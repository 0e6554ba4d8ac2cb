"""The house's rules: floors, file length, no print, data on the shelves, torch only where it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {
    "errors": 0, "shelf": 0.5, "config": 1, "nets": 2, "machine": 2, "images": 3, "weights": 3, "backends": 4, "releases": 5,
    "metrics": 5, "pretraining": 6, "stages": 6, "lab": 7, "bench": 7.5, "tables": 8, "cli": 9, "mmseg": 9, "api": 8.5,
}  # fmt: skip
GRAPH_ONLY = {"lab"}
"""Floors that may know stages only by their table."""
MODULES = sorted((ROOT / "svgbench").rglob("*.py"))
NO_TORCH = (
    "errors",
    "shelf",
    "config",
    "stages.graph",
    "config.build",
    "config.fields",
    "lab.configs",
    "lab.plan",
    "lab.preflight",
    "lab.run_plan",
    "lab.store",
    "lab.execute",
    "lab.diagnosis",
    "cli.figures",
    "cli.explain",
    "tables.explanation",
    "lab.engines",
    "lab.schedule",
    "lab.processes",
    "tables.report",
    "cli.main",
    "api",
    "cli.commands",
    "machine.signals",
    "machine.heartbeat",
    "machine.ranks",
    "machine.files",
    "images.sources",
    "images.packing",
)


def room(path: Path) -> str:
    parts = path.relative_to(ROOT / "svgbench").parts
    return parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("path", [m for m in MODULES if room(m) in FLOORS], ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_its_own_room_and_the_floors_below(path):
    own = room(path)
    for name in imports(path):
        if name.startswith("svgbench."):
            other = name.split(".")[1]
            if other in FLOORS and other != own:
                assert FLOORS[other] < FLOORS[own], f"{path.name} (floor {FLOORS[own]}) imports {name} (floor {FLOORS[other]})"


def test_only_the_command_line_imports_the_command_line():
    outside = [path for path in MODULES if room(path) not in ("cli", "__main__")]
    assert [path.name for path in outside if any(f"{name}.".startswith("svgbench.cli.") for name in imports(path))] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_is_under_400_lines_and_never_prints(path):
    text = path.read_text()
    assert len(text.splitlines()) < 400
    calls = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    assert not [c.lineno for c in calls if c.func.id in ("print", "eval", "exec")]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_is_unpickled_with_code(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        words = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if name == "torch.load":
            assert words.get("weights_only") == "True", f"{path}:{node.lineno}"
        if name in ("np.load", "numpy.load"):
            assert words.get("allow_pickle", "False") == "False", f"{path}:{node.lineno}"
        assert name not in ("pickle.load", "pickle.loads", "yaml.load") and words.get("trust_remote_code") != "True", (
            f"{path}:{node.lineno}"
        )


def test_no_two_classes_share_a_name():
    places: dict[str, list[str]] = {}
    for path in MODULES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


def test_shelves_hold_data_only():
    for shelf in ("encoders", "ablations", "reports"):
        assert not list((ROOT / shelf).rglob("*.py"))


def test_importing_what_the_quick_commands_use_brings_no_torch():
    names = ", ".join(f"svgbench.{name}" for name in NO_TORCH)
    code = f"import sys; import svgbench, {names}; sys.exit(any(m in sys.modules for m in ('torch', 'pandas', 'timm', 'matplotlib')) and 3)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr or "torch, pandas, timm or matplotlib was imported"


def test_no_module_keeps_mutable_state():
    for path in MODULES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Global):
                pytest.fail(f"{path}: global statement")
            value = getattr(node, "value", None)
            if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(value, ast.Call):
                assert ast.unparse(value.func) not in ("dict", "list", "set", "defaultdict", "Counter"), f"{path}:{node.lineno}"
