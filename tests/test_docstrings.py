"""Public tensor functions state shapes; the ratchet of types counts as it must."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

from types_ratchet import count, judge

ROOT = Path(__file__).parents[1] / "svgbench"
WITHOUT_SHAPES = {"metrics": 12, "machine": 10, "backends": 17, "releases": 5, "pretraining": 5, "weights": 1}
"""Public functions that take or return tensors and whose docstrings state no shape in brackets. A count here may only fall."""


def takes_tensors(function: ast.FunctionDef) -> bool:
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    hints = [ast.unparse(hint) for hint in (*(a.annotation for a in arguments), function.returns) if hint is not None]
    return any(re.search(r"\bTensor\b", hint) and "Callable" not in hint for hint in hints)


def states_a_shape(docstring: str) -> bool:
    return bool(re.search(r"\[[^\]]+\]|\bscalar\b|\bstate\b", docstring))


def silent(body: list[ast.stmt], of_class: str = "") -> list[str]:
    """Public tensor functions of a module or class without a shape; ``forward`` may leave it to its class."""
    names = []
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            names += silent(node.body, ast.get_docstring(node) or "")
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and takes_tensors(node):
            docstring = (ast.get_docstring(node) or "") + (of_class if node.name == "forward" else "")
            names += [] if states_a_shape(docstring) else [f"{node.name} ({node.lineno})"]
    return names


def test_public_tensor_functions_state_shapes():
    found = {path.relative_to(ROOT): silent(ast.parse(path.read_text()).body) for path in sorted(ROOT.rglob("*.py"))}
    counts = Counter({room: 0 for room in WITHOUT_SHAPES})
    for path, names in found.items():
        counts[path.parts[0]] += len(names)
    more = {room: n for room, n in counts.items() if n > WITHOUT_SHAPES.get(room, 0)}
    listed = "\n".join(f"{path}: {', '.join(names)}" for path, names in found.items() if names and path.parts[0] in more)
    assert not more, f"state the shapes in brackets, e.g. [B, C, h, w]:\n{listed}"


def test_a_function_without_a_shape_is_noticed():
    told = 'def f(x: Tensor) -> Tensor:\n    """The sum [B] of x [B, C]."""'
    untold = 'class C:\n    """A class."""\n    def f(self, x: Tensor) -> Tensor:\n        """The sum."""'
    assert silent(ast.parse(told).body) == [] and silent(ast.parse(untold).body) == ["f (3)"]


def test_type_errors_are_counted_by_room_and_only_fall():
    output = "svgbench/nets/flow.py:3: error: a\nsvgbench/nets/flow.py:3: note: b\nsvgbench/mmseg.py:9: error: c\n"
    assert count(output) == {"mmseg": 1, "nets": 1}
    assert judge({"nets": 2}, {"nets": 1, "cli": 1}) == (["svgbench/nets: 2 type errors, 1 allowed."], {"nets": 1})
    assert judge({"lab": 1}, {}) == (["svgbench/lab: 1 type errors, 0 allowed."], {})
    assert judge({"nets": 1}, {"nets": 4, "cli": 1}) == ([], {"nets": 1})
