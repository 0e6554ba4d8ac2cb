"""The conformance test passes what is right and names what is wrong; a package outside adds a backend and runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from pytest import MonkeyPatch, mark
from small_cards import CODEC, TINY
from torch import Tensor

from svgbench.backends.conformance import examine
from svgbench.backends.network import Network
from svgbench.backends.open import FrozenEncoder, open_encoder
from svgbench.cli.main import main
from svgbench.config.cards import EncoderCard, find

FLAT = TINY.model_copy(update={"backend": "flat", "channels": 3})
PLUGIN = '''
import torch
from svgbench.backends.network import Network

class Squares(Network):
    """Mean colour of 8 px squares."""
    channels, stride = 3, 8

    def __init__(self):
        super().__init__()
        self.model = torch.nn.AvgPool2d(8)

    def encode(self, pixels):
        return self.model(pixels)

class Neighbours(Squares):
    """Looks at the whole batch."""
    def encode(self, pixels):
        return self.model(pixels - pixels.mean(0, keepdim=True))

def squares(card, state):
    return Squares()

def neighbours(card, state):
    return Neighbours()
'''


STATED = TINY.pixels.model_copy(update={"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)})  # TINY's own are not the library's


@mark.parametrize("card", [TINY.model_copy(update={"pixels": STATED}), CODEC], ids=["features", "codec"])
def test_encoders_of_the_libraries_keep_every_promise(card: EncoderCard) -> None:
    encoder = open_encoder(card, random_weights_seed=0)
    findings = examine(encoder, seconds=0)
    assert not [finding for finding in findings if not finding.ok]
    promises = {"shape", "stride", "determinism", "batch independence", "pixel range", "no gradient", "frozen", "speed"}
    assert promises <= {finding.name for finding in findings}
    assert "images/s" in findings[-1].figure


class Flawed(Network):
    """Mean colour of squares, with one flaw."""

    channels, stride = 3, 8

    def __init__(self, flaw: str) -> None:
        super().__init__()
        self.model, self.flaw = torch.nn.AvgPool2d(8), flaw
        self.mean, self.std = ((0.1,) * 3, (1.0,) * 3) if flaw == "pixel statistics" else (None, None)

    def encode(self, pixels: Tensor) -> Tensor:
        features = self.model(pixels)
        if self.flaw == "shape":
            return features[:, :2]
        if self.flaw == "stride":
            return features[..., :4]
        if self.flaw == "determinism":
            return features + torch.rand(())
        if self.flaw == "batch independence":
            return features + pixels.mean()
        if self.flaw == "finite float32":
            return features / (features * 0)
        if self.flaw == "pixel range":
            return (features > 0).float()
        return features


@mark.parametrize("flaw", ["shape", "stride", "determinism", "batch independence", "finite float32", "pixel range", "pixel statistics"])
def test_a_flaw_is_named(flaw: str) -> None:
    findings = {finding.name: finding for finding in examine(FrozenEncoder(FLAT, Flawed(flaw)), seconds=0)}
    assert not findings[flaw].ok and "speed" not in findings
    assert all(finding.ok for finding in examine(FrozenEncoder(FLAT, Flawed("none")), seconds=0))


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: MonkeyPatch) -> Path:
    """A package that pip could have installed, with two backends; returns a shelf with a card for each."""
    site = tmp_path / "site"
    (site / "squares-1.0.dist-info").mkdir(parents=True)
    (site / "squares.py").write_text(PLUGIN)
    (site / "squares-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: squares\nVersion: 1.0\n")
    points = "[svgbench.backends]\nsquares = squares:squares\nneighbours = squares:neighbours\nabsent = no_such_module:nothing\n"
    (site / "squares-1.0.dist-info" / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(site))
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    for name in ("squares", "neighbours", "absent"):
        content = FLAT.model_copy(update={"backend": name}).model_dump(mode="json", exclude={"name"}, exclude_none=True)
        (shelf / f"my-{name}.yaml").write_text(yaml.safe_dump(content))
    return shelf


def checked(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as leaving:
        main(["encoders", "check", *words])
    said = capsys.readouterr()
    return int(leaving.value.code or 0), " ".join(said.out.split()), said.err


def test_a_package_adds_a_backend_that_opens_and_is_checked(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = torch.rand(2, 3, 32, 32)
    encoder = open_encoder(find("my-squares", "tiny", installed), random_weights_seed=0)
    mean, std = torch.tensor(FLAT.pixels.mean).view(3, 1, 1), torch.tensor(FLAT.pixels.std).view(3, 1, 1)
    torch.testing.assert_close(encoder.encode(images), torch.nn.functional.avg_pool2d((images - mean) / std, 8))
    status, out, err = checked(capsys, "my-squares", "--shelf", str(installed), "--random-weights", "--device", "cpu")
    assert status == 0 and "batch independence | ok" in out and "FAIL" not in out, err


def test_a_backend_that_breaks_a_promise_is_status_1_with_the_promise_named(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = checked(capsys, "my-neighbours", "--shelf", str(installed), "--random-weights", "--device", "cpu")
    assert status == 1 and "batch independence | FAIL" in out
    assert "'my-neighbours' breaks" in err and len(err.strip().splitlines()) == 1


def test_a_backend_whose_code_is_missing_says_so(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = checked(capsys, "my-absent", "--shelf", str(installed), "--random-weights", "--device", "cpu")
    assert status == 2 and "the backend absent" in err and "no_such_module" in err and len(err.strip().splitlines()) == 1


def test_a_check_without_weights_says_where_they_are_and_offers_random_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    status, out, err = checked(capsys, "mae-b16", "--device", "cpu")
    assert status == 2 and not out and len(err.strip().splitlines()) == 1
    assert "--weights FILE" in err and "--random-weights" in err


def test_a_shipped_encoder_passes_its_check_with_its_licence_below(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = checked(capsys, "mae", "--device", "cpu")
    assert status == 0 and "images/s" in out and "licence Apache-2.0" in out
