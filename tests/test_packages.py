"""The packages that installing svgbench brings: every shipped card opens after the plain install; extras and hints name what there is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from svgbench.config.backends import BACKENDS
from svgbench.config.cards import load_cards
from svgbench.lab.forecast.requirements import EXTRAS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def names(requirements: list[str]) -> set[str]:
    """Names of packages, with hyphens."""
    return {re.match(r"[\w-]+", one)[0].replace("_", "-") for one in requirements}


def test_every_card_opens_after_the_plain_install():
    needed = {BACKENDS[card.backend].package for card in load_cards().values()} - {None}
    assert {"transformers", "open_clip_torch", "timm", "diffusers"} == needed
    assert {name.replace("_", "-") for name in needed} | {"pandas"} <= names(PROJECT["dependencies"])


def test_the_extra_all_has_every_other_extra_and_hints_name_extras_that_exist():
    extras = PROJECT["optional-dependencies"]
    listed = re.fullmatch(r"svgbench\[(.*)\]", extras["all"][0])[1].split(",")
    assert set(listed) == set(extras) - {"all", "test"}
    for package, extra in EXTRAS.items():
        assert package.replace("_", "-") in names(extras[extra] if extra else PROJECT["dependencies"]), package
    for path in (ROOT / "svgbench").rglob("*.py"):
        assert set(re.findall(r"svgbench\[(\w+)\]", path.read_text())) <= set(extras), path


def test_constraints_pin_every_package_of_the_plain_install():
    pinned = names((ROOT / "constraints.txt").read_text().split())
    assert names(PROJECT["dependencies"]) <= pinned


def test_an_installed_wheel_has_every_package_and_every_shelf():
    """The checkout has them all anyway, so a missing one would only be noticed by users."""
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    code = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "svgbench").rglob("__init__.py")}
    shelves = {
        f"svgbench.shelf.{'.'.join(path.relative_to(ROOT).parts)}" for path in (ROOT / "encoders", ROOT / "ablations", ROOT / "reports")
    }
    shelves |= {f"svgbench.shelf.encoders.{path.name}" for path in (ROOT / "encoders").iterdir() if path.is_dir()}
    assert set(setup["packages"]) == code | shelves and len(setup["packages"]) == len(code | shelves)
    for name in shelves:
        place = ROOT / setup["package-dir"][name]
        kinds = {path.suffix for path in place.iterdir() if path.is_file()}
        assert kinds <= {pattern.removeprefix("*") for pattern in setup["package-data"][name]}, name
