"""Levels and parts of an explanation: fits with known numbers, differences of consecutive levels, reasons and commands."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from fake_runs import gfid, sampled, score
from PIL import Image

from svgbench.errors import BadInput
from svgbench.tables.collect import RunRecord
from svgbench.tables.explanation import (
    NOT_ADDITIVE,
    NOT_MEASURED,
    Explanation,
    explained_cell,
    explanation_content,
    explanation_of,
    explanation_tables,
    fit_steps,
)
from svgbench.tables.figures.waterfall import waterfall


def content(**more: Any) -> dict[str, Any]:
    """What the stage measured, with levels 1, 3 and 7."""
    levels = {
        name: {"value": value, "low": value - 0.5, "high": value + 0.5, "count": 10, "protocol": "p"}
        for name, value in (("real", 1.0), ("decoder", 3.0), ("noised", 7.0))
    }
    shares = {name: {"value": value, "low": 0.01, "high": 0.2, "count": 10} for name, value in (("samples", 0.125), ("validation", 0.05))}
    made = {
        "dim": 128, "samples": 10, "images": 10, "validation": 20, "reference": {"name": "train", "count": 300}, "levels": levels,
        "error": {"mean": 0.25, "images": 10, "times": [0.75, 0.95], "by_time": [0.3, 0.2], "by_channel": [0.25]},
        "memorised": {**shares, "quantile": 0.05, "threshold": 1.5, "searched": 300, "training": 300},
    }  # fmt: skip
    return made | more


def explained(rows: list[dict[str, Any]], **more: Any) -> Explanation:
    return explanation_of(RunRecord("a", Path("a"), {"run": "a", "stages": []}, rows), "gfid", content(**more))


def level(explanation: Explanation, name: str) -> Any:
    return next(one for one in (*explanation.levels, *explanation.parts) if one.name == name)


CURVE = [gfid("a", 20 + 30 / steps, steps=steps) for steps in (5, 10, 25)]


def half_of(row: dict[str, Any]) -> float:
    return row["high"] - row["value"]


def test_a_step_has_the_interval_that_its_two_levels_allow():
    paired = {"step_low": 1.7, "step_high": 2.3}
    levels = content()["levels"]
    found = explained(CURVE, levels=levels | {"decoder": levels["decoder"] | paired})
    steps = {one.name: (one.step_low, one.step_high) for one in found.levels}
    assert steps["real"] == (None, None) and steps["decoder"] == (1.7, 2.3)  # of the same images
    fit = fit_steps({row["steps"]: (row["value"], half_of(row)) for row in CURVE}, 1)
    both = (fit.half**2 + 0.5**2) ** 0.5  # of other images
    assert steps["infinite_steps"] == pytest.approx((13 - both, 13 + both))
    assert steps["samples"] == pytest.approx((1.2 - fit.half_to_last, 1.2 + fit.half_to_last))
    first, _ = explanation_tables(found)
    assert "+2.00 ± 0.30" in first.markdown()


def test_the_difference_from_the_last_point_to_its_own_fit_is_that_of_the_numbers():
    found = fit_steps({1: (3.0, 0.3), 2: (2.0, 0.4)}, 1)  # a = 2 y(2) - y(1), so y(2) - a = y(1) - y(2)
    assert found.half_to_last == pytest.approx(0.5)


@pytest.mark.parametrize("order", [1, 2])
def test_a_fit_returns_the_numbers_of_its_curve(order):
    found = fit_steps({steps: (4 + 50 / steps**order, 1.0) for steps in (5, 10, 25, 50)}, order)
    assert (found.a, found.b) == (pytest.approx(4), pytest.approx(50)) and found.residual == pytest.approx(0, abs=1e-9)
    assert fit_steps({5: (1.0, None), 10: (1.0, 0.5), 25: (1.0, 0.5)}, order).half is None


def test_the_interval_of_a_fit_is_that_of_its_intercept():
    found = fit_steps({1: (3.0, 0.3), 2: (2.0, 0.4)}, 1)  # a line through two points: a = 2 y(2) - y(1)
    assert (found.a, found.b) == (pytest.approx(1), pytest.approx(2)) and found.half == pytest.approx((0.8**2 + 0.3**2) ** 0.5)


def test_levels_lead_from_real_images_to_the_samples_and_steps_are_their_differences():
    found = explained(CURVE)
    assert [one.name for one in found.levels] == ["real", "decoder", "noised", "infinite_steps", "samples"]
    assert [one.value for one in found.levels] == pytest.approx([1, 3, 7, 20, 21.2])
    assert [one.step for one in found.levels[1:]] == pytest.approx([2, 4, 13, 1.2]) and found.levels[0].step is None
    rest = level(found, "diffusion_model")
    assert rest.value == pytest.approx(21.2 - 7) and rest.high - rest.value == pytest.approx((0.5**2 + half_of(CURVE[-1]) ** 2) ** 0.5)
    assert "20.00 +30.00 / steps, fitted to 5, 10, 25 steps (euler)" in level(found, "infinite_steps").how
    assert (found.steps, found.guidance) == (25, 1.0)


def test_the_order_of_the_fit_is_that_of_the_sampler():
    rows = [gfid("a", 20 + 30 / steps**2, steps=steps, sampler="heun") for steps in (5, 10, 25)]
    assert level(explained(rows), "infinite_steps").value == pytest.approx(20)
    skipped = [gfid("a", 20 + 30 / steps, steps=steps, sampler="heun", zero_init=1) for steps in (5, 10, 25)]
    assert level(explained(skipped), "infinite_steps").value == pytest.approx(20)
    adaptive = level(explained([gfid("a", 20.0, steps=n, sampler="dopri5") for n in (5, 10, 25)]), "infinite_steps")
    assert adaptive.value is None and "dopri5 chooses its steps" in adaptive.how


@pytest.mark.parametrize(("steps", "offer"), [((25,), "[6,12,25]"), ((5, 25), "[5,12,25]"), ((1,), "[1,2,4]")])
def test_too_few_numbers_of_steps_say_which_command_measures_them(steps, offer):
    found = explained([gfid("a", 20.0, steps=n) for n in steps])
    missing = level(found, "infinite_steps")
    assert missing.value is None and missing.how.startswith(NOT_MEASURED) and f"--set 'sampling.steps={offer}'" in missing.how
    assert found.levels[-1].step == pytest.approx(20 - 7)  # from the last measured level


def test_guidance_is_its_best_scale_against_none_at_the_same_steps():
    rows = [
        *CURVE,
        *(gfid("a", value, guidance=scale) for scale, value in ((2.0, 15.0), (4.0, 18.0))),
        gfid("a", 1.0, steps=5, guidance=8.0),
    ]
    found = level(explained(rows), "guidance")
    assert found.value == pytest.approx(15 - 21.2) and found.title == "guidance 2 minus none"
    none = level(explained(CURVE), "guidance")
    assert none.value is None and "--set 'sampling.guidance=[1,1.5,2,4]'" in none.how
    guided = explained([gfid("a", 15.0, guidance=2.0)])
    assert guided.guidance == 2.0 and "[1,2]" in level(guided, "guidance").how
    assert guided.levels[-1].title == "samples, 25 steps, guidance 2"


def test_the_bias_of_finite_samples_is_a_score_or_says_how_to_get_it():
    rows = [*CURVE, score("a", "gfid_infinity", 18.0, made=sampled(25)), score("a", "gfid_infinity", 1.0, made=sampled(5))]
    assert level(explained(rows), "finite_samples").value == pytest.approx(21.2 - 18)
    none = level(explained(CURVE), "finite_samples")
    assert none.value is None and "needs 512 samples, and the run has 10" in none.how and "--set sampling.count=512" in none.how


def test_fewer_validation_images_than_samples_are_compared_with_as_many_samples():
    cells = {f"samples {n}": {"value": 30 + 30 / n, "low": None, "high": None, "count": 6} for n in (5, 10, 25)}
    found = explained(CURVE, images=6, validation=6, cells=cells)
    assert [one.value for one in found.levels[3:]] == pytest.approx([30, 31.2, 21.2])
    assert found.levels[-1].name == "all_samples" and found.levels[-1].step == pytest.approx(-10)
    assert "6 of 10 samples, as many as there are validation images" in found.levels[-2].how


def test_only_samples_from_the_end_of_the_training_are_explained():
    early = gfid("a", 1.0, steps=50, images_seen=10)
    assert explained_cell("a", [*CURVE, early], "gfid") == (25, 1.0)
    with pytest.raises(BadInput, match="run 'a' has no fd_dinov2 to explain"):
        explained_cell("a", CURVE, "fd_dinov2")


def test_tables_fit_80_columns_and_say_how_each_number_was_measured():
    levels, parts = explanation_tables(explained(CURVE, memorised={"reason": "there is none"}))
    for table in (levels, parts):
        lines = [line for line in table.markdown().splitlines() if line.startswith("|")]
        assert lines and max(map(len, lines)) <= 80
        marks = [row[0].rpartition(" ")[2] for row in table.rows]
        assert all(any(note.startswith(f"{mark} ") for note in table.notes) for mark in marks)
    assert NOT_ADDITIVE in levels.notes and levels.rows[1][2:] == ["3.00 (2.50, 3.50)", "+2.00"]
    assert [row[1] for row in parts.rows][-2:] == [NOT_MEASURED] * 2 and "not measured: there is none" in parts.notes[-1]
    shares = [row[1] for row in explanation_tables(explained(CURVE))[1].rows][-2:]
    assert shares == ["12.5 % (1.0, 20.0)", "5.0 % (1.0, 20.0)"]


def test_json_holds_every_number_and_the_model_s_error():
    made = explanation_content(explained(CURVE), content())
    assert [one["value"] for one in made["levels"]] == pytest.approx([1, 3, 7, 20, 21.2]) and "step" not in made["parts"][0]
    assert (made["run"], made["steps"], made["error"]["mean"], made["note"]) == ("a", 25, 0.25, NOT_ADDITIVE)


def test_the_waterfall_has_a_panel_for_each_run_and_shows_what_is_missing():
    one, two = explained(CURVE), explained([gfid("a", 5.0)])
    heights = []
    for runs in ([one], [one, two]):
        with Image.open(io.BytesIO(waterfall(runs))) as picture:
            heights.append(picture.height)
            assert picture.format == "PNG" and picture.width == 1400
    assert heights[1] == pytest.approx(2 * heights[0], abs=2) and waterfall([one]) == waterfall([one])
