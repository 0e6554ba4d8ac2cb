"""Sine, cosine, arc tangent, interpolation and mean in float32: right, and with the same bits whatever the processor does."""

from __future__ import annotations

import ast
import hashlib
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from svgbench.images import drawing, exact, scenes, shapes

SENSITIVE = {
    ("train", 32): [139, 261, 765, 936, 977, 1826, 2957, 3108, 3464, 4166, 4771, 5011, 5164, 5522, 5691, 8889, 9947, 11138, 13018, 17378],
    ("val", 32): [109, 437, 831, 994, 1306, 1544, 1595, 1603, 2171, 2798, 3548],
    ("train", 64): [45, 151, 161, 193, 254],
    ("train", 256): [18],
}
"""Images of which numpy's own functions and BLAS drew other bytes without AVX-512, without AVX2 or by other kernels."""
HERE = f"""
import hashlib, numpy as np
from svgbench.images import exact, scenes, shapes
whole = shapes.draw(range(2000), seed=0, resolution=32, split="val", captions=True)
digest = hashlib.sha256(whole.images.tobytes() + whole.masks.tobytes() + whole.labels.tobytes() + " ".join(whole.captions).encode())
for (split, side), indices in {SENSITIVE!r}.items():
    drawn = shapes.draw(indices, seed=0, resolution=side, split=split)
    digest.update(drawn.images.tobytes() + drawn.masks.tobytes())
for split, side, count in (("pretrain", 64, 1000), ("val", 64, 400), ("train", 32, 400)):
    drawn = scenes.draw(range(count), seed=0, resolution=side, split=split, captions=True)
    digest.update(drawn.images.tobytes() + drawn.masks.tobytes() + drawn.depth.tobytes() + " ".join(drawn.captions).encode())
angles = np.linspace(-900, 900, 50_001, dtype=np.float32)
lattice = angles[:4900].reshape(100, 7, 7)
digest.update(exact.sine(angles).tobytes() + exact.cosine(angles).tobytes() + exact.arctangent(angles, angles[::-1]).tobytes())
digest.update(exact.interpolated(lattice, np.linspace(0, 6, 33, dtype=np.float32)).tobytes() + exact.mean(angles[None]).tobytes())
"""


def _elsewhere(**environment: str) -> str:
    words = [sys.executable, "-c", HERE + "print(digest.hexdigest())"]
    done = subprocess.run(words, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    assert "not supported" not in done.stderr  # numpy's warning of a feature that it does not know
    return done.stdout.strip()


def _dispatched() -> list[str]:
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    return [name for name in __cpu_dispatch__ if __cpu_features__[name]]


def test_the_same_bytes_with_vector_instructions_off():
    """Without all that numpy chooses at run time, and with the oldest kernels of BLAS."""
    if not _dispatched():
        pytest.skip("this processor has none of the instructions that numpy chooses at run time")
    names: dict[str, object] = {}
    exec(HERE, names)
    here = names["digest"].hexdigest()  # type: ignore[attr-defined]
    assert _elsewhere(NPY_DISABLE_CPU_FEATURES=" ".join(_dispatched()), OPENBLAS_CORETYPE="Prescott") == here
    newest = [name for name in _dispatched() if "AVX512" in name or "V4" in name]
    if newest:
        assert _elsewhere(NPY_DISABLE_CPU_FEATURES=" ".join(newest), OPENBLAS_CORETYPE="Haswell") == here


def test_the_images_of_the_measured_numbers_are_drawn():
    """The stores' digests that the protocols of reports/measured name; and of the same images masks and captions, as drawn with and without
    vector instructions."""
    known = {"train": (10_000, "4ebe77b1", "fc5d5b99", "84713f8e"), "val": (2_000, "051ae3e0", "447cb79e", "17abd61f")}
    for split, (count, of_images, of_masks, of_captions) in known.items():
        drawn = shapes.draw(np.arange(count), seed=0, resolution=32, split=split, captions=True)
        digest = hashlib.sha256()
        header = {"descr": "|u1", "fortran_order": False, "shape": drawn.images.shape}
        np.lib.format.write_array_header_1_0(type("Sink", (), {"write": staticmethod(digest.update)}), header)
        digest.update(drawn.images.data)
        assert digest.hexdigest()[:8] == of_images
        assert hashlib.sha256(drawn.masks.tobytes()).hexdigest()[:8] == of_masks
        assert hashlib.sha256("\n".join(drawn.captions).encode()).hexdigest()[:8] == of_captions


EXACT = {
    "abs", "arange", "array", "asarray", "broadcast_to", "clip", "copysign", "empty", "empty_like", "errstate", "flatnonzero",
    "float32", "floor", "full_like", "maximum", "meshgrid", "minimum", "moveaxis", "multiply", "nextafter", "ravel", "rint",
    "sort", "sqrt", "stack", "uint64", "unique", "where", "zeros",
}  # fmt: skip
"""Functions of numpy that IEEE 754 defines exactly, or that only move numbers."""
METHODS = {"any", "argmin", "astype", "clip", "min", "reshape", "view"}
"""Methods of arrays of which the same holds. Sums, means and products of matrices are not among them."""
OTHER_METHODS = {"digest", "encode", "from_bytes", "index", "join", "split"}


@pytest.mark.parametrize("module", [shapes, scenes, drawing, exact])
def test_drawing_uses_exact_operations_alone(module):
    """A rare difference between processors would pass the tests of digests: numpy's sine changed 22 of 30,720,000 bytes."""
    tree = ast.parse(Path(module.__file__).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner, name = node.func.value, node.func.attr
            if isinstance(owner, ast.Name) and owner.id == "np":
                assert name in EXACT, f"np.{name} in line {node.lineno}"
            elif not (isinstance(owner, ast.Name) and owner.id in ("math", "hashlib")):  # math: rounded constants of a polygon's corners
                assert name in METHODS | OTHER_METHODS, f".{name}() in line {node.lineno}"
        if isinstance(node, ast.BinOp):
            assert not isinstance(node.op, ast.MatMult), f"@ in line {node.lineno}"
            constant = isinstance(node.left, ast.Constant)
            assert not isinstance(node.op, ast.Pow) or constant or ast.unparse(node.right) == "2", f"** in line {node.lineno}"


def test_sine_and_cosine_are_right_to_two_units_in_the_last_place():
    rng = np.random.default_rng(0)
    for reach in (1, 40, 3_000, 69_000):
        x = np.concatenate([rng.uniform(-reach, reach, 100_000), [0, reach, np.pi / 2]]).astype(np.float32)
        for mine, true in ((exact.sine(x), np.sin(x.astype(np.float64))), (exact.cosine(x), np.cos(x.astype(np.float64)))):
            assert mine.dtype == np.float32
            assert (np.abs(mine - true) <= 2 * np.spacing(np.abs(true).astype(np.float32)) + 1e-9).all()


def test_the_arc_tangent_is_right_in_every_quadrant_and_on_the_axes():
    rng = np.random.default_rng(0)
    y, x = rng.normal(size=(2, 100_000)).astype(np.float32)
    true = np.arctan2(y.astype(np.float64), x.astype(np.float64))
    assert (np.abs(exact.arctangent(y, x) - true) <= 4 * np.spacing(np.abs(true).astype(np.float32))).all()
    places = np.array([0, 1, -1, 2], np.float32)
    y, x = np.meshgrid(places, places)
    true = np.arctan2(y.astype(np.float64), x.astype(np.float64))  # numpy's own float32 differs between processors
    assert (np.abs(exact.arctangent(y, x) - true) <= 4 * np.spacing(np.abs(true).astype(np.float32))).all()


@pytest.mark.parametrize("count", [1, 7, 8, 129, 256, 2304, 17 * 17])
def test_a_mean_is_the_mean(count):
    rows = np.random.default_rng(count).normal(size=(5, count)).astype(np.float32)
    assert exact.mean(rows) == pytest.approx(rows.astype(np.float64).mean(1), abs=1e-6)


def test_interpolation_meets_the_lattice_and_is_linear_between():
    lattice = np.random.default_rng(0).normal(size=(3, 7, 7)).astype(np.float32)
    assert np.array_equal(exact.interpolated(lattice, np.arange(7, dtype=np.float32)), lattice)
    halves = exact.interpolated(lattice, np.arange(6, dtype=np.float32) + np.float32(0.5))
    four = (lattice[:, 1:, 1:] + lattice[:, :-1, 1:] + lattice[:, 1:, :-1] + lattice[:, :-1, :-1]) / 4
    assert np.allclose(halves, four, atol=1e-6)


def test_a_product_and_sum_are_rounded_once():
    """Also numbers whose a b + c is so near the middle of two float32 numbers that rounding it to float64 first goes wrong."""
    a, b = np.float32(2**-12 + 2**-27), np.float32(2**-12 - 2**-27)  # their product is 2^-24 - 2^-54
    beside = [(a, b, np.float32(1 + 2**-23)), (-a, b, np.float32(-1 - 2**-23)), (-a, b, np.float32(1 - 2**-23))]
    assert any(np.float32(float(x) * float(y) + float(z)) != exact._fused(np.array([x]), y, z)[0] for x, y, z in beside)
    tried = beside + [tuple(row) for row in np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)]
    for x, y, z in tried:
        true = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        mine = exact._fused(np.array([x]), y, z)[0]
        near = [np.nextafter(mine, np.float32(side)) for side in (-np.inf, np.inf)]
        assert all(abs(Fraction(float(mine)) - true) <= abs(Fraction(float(other)) - true) for other in near)
