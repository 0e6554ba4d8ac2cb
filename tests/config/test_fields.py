"""Every field of a configuration is documented, and the generated reference is current."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from svgbench.config import cards, experiments, networks, records, schema, scoring
from svgbench.config.fields import field_docs, fields_markdown, fields_of
from svgbench.config.part import Part
from svgbench.config.schema import RunConfig
from svgbench.errors import UnknownName

ROOT = Path(__file__).parents[2]

PARTS = sorted(
    {kind for module in (cards, experiments, networks, records, schema, scoring) for kind in vars(module).values()
     if isinstance(kind, type) and issubclass(kind, Part) and kind.model_fields},
    key=lambda kind: kind.__name__,
)  # fmt: skip


@pytest.mark.parametrize("kind", PARTS, ids=lambda kind: kind.__name__)
def test_every_field_has_a_sentence(kind):
    for name, field in kind.model_fields.items():
        text = " ".join((field.description or "").split())
        assert (len(text) > 8 and text.endswith((".", ")"))) or text in ("Stage 1.", "Stage 2."), f"{kind.__name__}.{name}: {text!r}"
    assert (kind.__doc__ or "").strip().endswith((".", ".)"))


def doc(path: str):
    (found,) = field_docs(path)
    return found


def test_the_reference_has_every_field_once_in_the_order_of_the_schema():
    assert [one.path for one in field_docs()] == list(fields_of(RunConfig))


@pytest.mark.parametrize(
    ("path", "type_", "bounds", "default"),
    [
        ("data.resolution", "integer", ">= 16 and <= 1024", "256"),
        ("data.train_images", "integer or empty", ">= 1", "null"),
        ("encoder.features.layers", "`last` or list of integer", "not empty", '"last"'),
        ("autoencoder.training.optimiser.betas", "list of 2 numbers", "each >= 0 and <= 1", "[0.5, 0.9]"),
        ("diffusion.training.optimiser.betas", "list of 2 numbers", "each >= 0 and <= 1", "[0.9, 0.999]"),
        ("diffusion.representation.encoder.card", "text", "", '"dinov2"'),
        ("diffusion.release.file", "text", "", "required"),
        ("diffusion.transformer.wide.width", "integer", ">= 1", "2048"),
        ("sampling.steps", "list of integer", "each >= 1 and <= 4000; not empty", "[25]"),
        ("sampling.labels", "text", "one of balanced, random", '"balanced"'),
        ("scores.segmentation.head.classes", "integer", ">= 2 and <= 254", "150"),
        ("scores.depth.head.max_gradient_norm", "number", ">= 0", "35.0"),
        ("diffusion.flip", "true or false", "", "true"),
        ("encoder.opened", "mapping or empty", "", "null"),
    ],
)
def test_a_field_has_its_type_bounds_and_default(path, type_, bounds, default):
    found = doc(path)
    assert (found.type, found.bounds, found.default) == (type_, bounds, default)


def test_a_prefix_gives_the_fields_below_it_and_no_others():
    assert [one.path for one in field_docs("latents")] == ["latents.statistics", "latents.scale", "latents.standardise", "latents.align"]
    assert all(one.path.startswith("sampling.") for one in field_docs("sampling"))


def test_a_path_that_no_field_has_is_refused_with_the_nearest_one():
    with pytest.raises(UnknownName, match=r"no field named 'sampling\.step'\. Did you mean 'sampling\.steps'"):
        field_docs("sampling.step")


def test_the_reference_needs_no_torch():
    code = "import sys; from svgbench.config.fields import fields_markdown; fields_markdown(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_page_names_every_field_in_lines_of_100_columns():
    text = fields_markdown()
    assert all(f"- `{path}`\n" in text for path in fields_of(RunConfig))
    assert max(map(len, text.splitlines())) <= 100 and "``" not in text


def test_the_written_page_is_current():
    assert (ROOT / "docs" / "fields.md").read_text() == fields_markdown(), "write it again: svgbench fields --markdown > docs/fields.md"
