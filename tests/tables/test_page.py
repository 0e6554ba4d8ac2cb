"""The HTML page: one file, nothing from elsewhere, readable by eye, ear and keyboard; and in a real browser it loads, sorts and slides."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fake_runs import gfid, sampled, score, write, write_samples
from PIL import Image

import svgbench
from svgbench.cli.reports import tables_for
from svgbench.lab.store import Store
from svgbench.tables import page as page_module
from svgbench.tables.collect import RunRecord, collect
from svgbench.tables.figures.palette import LINES
from svgbench.tables.layouts import load_layout
from svgbench.tables.page import page, report_page
from svgbench.tables.provenance import made_by
from svgbench.tables.table import Cell, Table

VOID = {"meta", "img", "input", "line", "circle", "rect", "path", "polyline", "wbr", "br"}
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """The page of three small runs with samples, a figure and a failure."""
    out = tmp_path_factory.mktemp("page") / "runs"
    for name, family, start in (("base", "sd-vae", 30.0), ("quick", "dinov3", 20.0), ("third", "mae", 25.0)):
        scores = [gfid(name, start - s / 5 + g, steps=s, guidance=g) for s in (5, 25) for g in (1.0, 2.0)]
        fails = name == "third"
        scores += [score(name, "is", start, made=sampled()), *([] if fails else [score(name, "rfid", start / 10)])]
        write(out / name, scores, {"reconstruction-scores": "<b>NaN</b> & more."} if fails else {}, family=family)
        for steps in (5, 25):
            write_samples(out, name, steps, 1.0)
    (out / "figures").mkdir()
    Image.new("RGB", (40, 20), "blue").save(out / "figures" / "nobody-s.png")
    for name, runs in (("gfid-by-steps", ["base", "quick"]), ("samples", ["base", "another"])):
        Image.new("RGB", (40, 20), "red").save(out / "figures" / f"{name}.png")
        said = {"title": f"{name} drawn", "caption": f"{name}: one line a tokenizer", "tokenizers": [{"name": "t", "runs": runs}]}
        (out / "figures" / f"{name}.json").write_text(json.dumps(said))
    records = collect(out)
    return report_page(
        tables_for(records, [load_layout("few-step"), load_layout("ablation")]),
        records,
        out,
        title="svgbench: few-step",
        asks="Do <few> steps suffice?",
    )


class Reader(HTMLParser):
    """Every element with its attributes; fails on an element that is closed by another's end."""

    def __init__(self, text):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._open.pop() == tag

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def test_nothing_comes_from_elsewhere(text):
    found = Reader(text)
    for _, attributes in found.elements:
        for name in ("src", "href", "srcset", "poster", "data", "action"):
            assert re.match(r"data:image/png;base64,|#", attributes.get(name) or "#"), attributes
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|<link|<iframe", text)
    assert any("default-src 'none'" in a.get("content", "") for a in found.all("meta"))


def test_tables_say_what_they_are_to_those_who_do_not_see_them(text):
    found = Reader(text)
    tables = found.all("table")
    assert len(tables) == len(re.findall("<caption", text)) >= 5
    assert all(a.get("scope") in ("col", "row") for a in found.all("th"))
    assert all(a.get("alt") for a in found.all("img")) and found.all("html") == [{"lang": "en"}]
    assert all(a.get("tabindex") == "0" and a.get("aria-label") for a in found.all("div") if a.get("class") == "scroll")
    ids = [a["id"] for _, a in found.elements if "id" in a]
    assert len(ids) == len(set(ids)) and {a["href"][1:] for a in found.all("a")} <= set(ids)


def test_what_runs_say_is_text_and_never_markup(text):
    assert "<b>NaN</b>" not in text and "&lt;b&gt;NaN&lt;/b&gt; &amp; more" in text
    assert "<script>alert" not in page(
        [
            Table(
                "<script>alert(1)</script>",
                ["<i>"],
                [
                    [
                        "<u>",
                    ][:1]
                ],
                ["<s>"],
            )
        ],
        title="<x>",
    )


def test_a_number_carries_its_protocol_and_sorts_by_what_it_rounds():
    table = Table("t", ["run", "gFID ↓ [1]"], [["a", Cell("1.23", place=1, value=1.2345, hint="fd/x/v1")], ["b", "- [a]"]], ["[1] fd/x/v1"])
    text = page([table], title="t")
    assert 'data-value="1.2345" title="fd/x/v1"' in text and 'title="[1] fd/x/v1"' in text and "best: " in text
    assert '<td class="num">-&nbsp;<sup>a</sup></td>' in text


def test_a_title_s_second_line_begins_after_a_comma_that_is_in_no_brackets():
    table = Table("t", ["run", "SSIM [-1, 1] ↑ [4]", "SSIM [-1, 1] ↑, guidance 2 [4]"], [["a", "0.5", "0.6"]], ["[4] ssim/v1"])
    text = page([table], title="t")
    assert ">SSIM [-1, 1]&nbsp;↑&nbsp;<sup>4</sup></button>" in text
    assert '>SSIM [-1, 1]&nbsp;↑<small><span class="unseen">, </span>guidance 2&nbsp;<sup>4</sup></small></button>' in text


def test_long_texts_are_set_in_several_lines_and_numbers_in_one():
    command = "svgbench ablate alignment; svgbench report alignment"
    text = page([Table("t", ["question", "command", "gFID"], [["Q1", command, "12.34"], ["Q2", "-", "5.6"]])], title="t")
    assert f'<td class="prose">{command}</td>' in text and '<td class="num" data-value="12.34">' in text and "<td>-</td>" in text
    assert "td.prose { white-space: normal;" in text


def test_curves_read_without_script_and_have_a_table_behind_them(text):
    found = Reader(text)
    labels = [a["aria-label"] for a in found.all("g") if "aria-label" in a]
    assert "quick: gFID 20.00 at 5 steps" in labels and "base: gFID 26.00 at 25 steps" in labels
    assert text.count("Numbers of these curves") == 2  # without and with guidance


def test_samples_and_figures_are_in_the_page(text):
    images = Reader(text).all("img")
    assert len([i for i in images if "data-steps" in i]) == 6 and len([i for i in images if "hidden" in i]) == 3


def test_figures_of_these_runs_alone_are_in_the_page_with_what_they_show_as_their_alternative(text):
    (image,) = [i for i in Reader(text).all("img") if "data-steps" not in i]
    assert image["alt"] == "gfid-by-steps: one line a tokenizer" and "samples drawn" not in text
    assert text.count("gfid-by-steps drawn") == 1 and '<h3 class="unseen">gfid-by-steps drawn</h3>' in text  # it is in the picture


def colours(name):
    """The named colours of the style sheet, light then dark."""
    style = Path(page_module.__file__).with_name("page.css").read_text()
    return re.findall(rf"--{name}: (#[0-9a-f]{{6}})", style)


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize(
    ("front", "back", "least"),
    [
        *((front, back, 4.5) for front in ("ink", "quiet", "accent") for back in ("paper", "sheet", "elsewhere", "fine")),
        ("best-ink", "best", 4.5), ("paper", "ink", 4.5), *((f"h{i}", "sheet", 3.0) for i in range(len(LINES))),
    ],
)  # fmt: skip
def test_colours_contrast_as_wcag_asks(front, back, least):
    pairs = list(zip(colours(front), colours(back), strict=True))
    assert len(pairs) == 2
    for one, other in pairs:
        low, high = sorted((luminance(one), luminance(other)))
        assert (high + 0.05) / (low + 0.05) >= least, (one, other)


def test_the_page_has_the_colours_of_the_figures():
    assert tuple(colours(f"h{i}")[0] for i in range(len(LINES))) == LINES and colours(f"h{len(LINES)}") == []


def test_a_row_has_one_colour_in_its_tables_and_curves(text):
    for number, name in enumerate(("base", "quick", "third")):
        heads = re.findall(rf'<th scope="row"><svg class="swatch hue(\d)"[^>]*>(?:(?!</svg>).)*</svg>{name}<', text)
        keys = re.findall(rf'<svg class="swatch hue(\d)"[^>]*>(?:(?!</svg>).)*</svg>{name}</button>', text)
        assert len(heads) >= 3 and len(keys) == 2 and set(heads + keys) == {str(number)}


def test_the_page_says_what_was_asked_and_where_its_numbers_come_from(text, tmp_path):
    assert '<p class="asks">Do &lt;few&gt; steps suffice?</p>' in text
    assert f"3 runs, seed 0; svgbench {svgbench.__version__}</p>" in text  # these records hold no more
    store = Store(tmp_path / "store")
    hosts = [{"svgbench": "0.2", "commit": "ab" * 20}, {"svgbench": "0.2", "commit": None}]
    stages = [{"stage": "images", "key": "k", "host": host} for host in hosts]
    records = [RunRecord(name, tmp_path, {"stages": stages}, []) for name in ("a", "a.seed-1")]
    assert made_by(records, store) == "2 runs, seeds 0, 1; svgbench 0.2, commit abababababab"


PROBE = """<script>
const said = {errors: window.faults};
const rows = (t) => [...t.tBodies[0].rows].map((row) => row.cells[0].textContent);
const table = document.querySelector("#table-0 table");
const sorts = [...table.querySelectorAll(".sort")];
said.unsorted = rows(table);
sorts[1].click(); said.up = rows(table); said.state = sorts[1].closest("th").getAttribute("aria-sort");
sorts[1].click(); said.down = rows(table);
said.last = table.tBodies[0].rows[2].cells[1].textContent;
const cell = table.querySelector("[data-hint]:not(button)");
cell.focus(); cell.dispatchEvent(new FocusEvent("focus")); // a window that is behind others hears of no focus
said.hint = document.getElementById("hint").textContent; said.hidden = document.getElementById("hint").hidden;
cell.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowDown", bubbles: true}));
said.moved = document.activeElement !== cell && document.activeElement.tagName === "TD";
document.dispatchEvent(new KeyboardEvent("keydown", {key: "Escape", bubbles: true})); said.closed = document.getElementById("hint").hidden;
const slider = document.getElementById("steps");
const shown = () => [...document.querySelectorAll(".sheets img")].filter((i) => !i.hidden).map((i) => i.dataset.steps);
said.before = shown(); slider.value = 0; slider.dispatchEvent(new Event("input", {bubbles: true})); said.after = shown();
const key = document.querySelector(".key"); key.click(); said.lit = document.querySelectorAll(".chart .curve.lit").length;
said.loaded = performance.getEntriesByType("resource").map((r) => r.name.slice(0, 40)).filter((n) => !n.startsWith("data:"));
said.over = document.documentElement.scrollWidth - document.documentElement.clientWidth;
said.drawn = [...document.images].every((i) => i.hidden || (i.complete && i.naturalWidth > 0));
document.body.dataset.said = JSON.stringify(said);
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no browser here: chromium is not installed")
@pytest.mark.parametrize("width", [1280, 500], ids=["desk", "phone"])
def test_in_a_browser_the_page_loads_sorts_and_slides(text, tmp_path, width):
    faults = "<script>window.faults = []; addEventListener('error', (e) => faults.push(String(e.message)));"
    faults += " addEventListener('securitypolicyviolation', (e) => faults.push(e.violatedDirective));</script>"
    path = tmp_path / "page.html"
    path.write_text(text.replace("<title>", faults + "<title>").replace("</body>", f"{PROBE}</body>"))
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", f"--user-data-dir={tmp_path / 'profile'}"]
    words += [f"--window-size={width},900", "--enable-logging=stderr", "--dump-dom", path.as_uri()]
    done = subprocess.run([BROWSER, *words], capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr, done.stderr[-2000:]
    (body,) = Reader(done.stdout).all("body")
    said = json.loads(body["data-said"])
    assert said["errors"] == [] and said["loaded"] == [] and said["drawn"] and said["over"] <= 0
    assert said["unsorted"] == ["base", "quick", "third"] and said["up"] == ["quick", "base", "third"] and said["state"] == "ascending"
    assert said["down"] == ["base", "quick", "third"] and said["last"].startswith("failed")  # what has no number stays last
    assert "fd" in said["hint"] or "p/val/v1" in said["hint"]
    assert not said["hidden"] and said["moved"] and said["closed"]
    assert set(said["before"]) == {"25"} and set(said["after"]) == {"5"} and said["lit"] == 1
