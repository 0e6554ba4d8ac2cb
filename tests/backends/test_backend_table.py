"""The table of backends: every row can be resolved, and a new backend needs a module and a row."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest
import torch
from torch import nn

from svgbench.backends.network import Network
from svgbench.backends.open import open_encoder
from svgbench.config.backends import BACKENDS, Backend
from svgbench.config.cards import find, load_cards
from svgbench.errors import BadInput
from svgbench.lab.forecast import requirements


class Toy(Network):
    """Averages patches of 16 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Conv2d(3, 4, 16, 16)
        self.channels, self.stride = 4, 16

    def encode(self, pixels):
        return self.model(pixels)


def open_toy(card, state):
    return Toy()


def toy_card(model, name):
    return {"model": model, "origin": "here", "stride": 16, "pixels": {"mean": (0.0,) * 3, "std": (1.0,) * 3, "size": 32}}


@pytest.mark.parametrize("name", BACKENDS)
def test_every_row_names_functions_and_a_package_that_doctor_lists(name):
    row = BACKENDS[name]
    assert callable(pkgutil.resolve_name(row.opener)) and callable(pkgutil.resolve_name(row.card_reader))
    assert row.package is None or requirements.EXTRAS[row.package] == row.extra


def test_every_shipped_card_has_a_row():
    assert {card.backend for card in load_cards().values()} <= BACKENDS.keys()


def test_the_table_and_names_without_cards_bring_no_library():
    code = "import sys, svgbench.config.foreign; sys.exit(any(m in sys.modules for m in ('torch', 'timm', 'open_clip', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_new_backend_is_a_module_and_a_row(monkeypatch):
    monkeypatch.setitem(sys.modules, "toy_backend", sys.modules[__name__])
    monkeypatch.setitem(BACKENDS, "toy", Backend("toy_backend:open_toy", "numpy", card_reader="toy_backend:toy_card"))
    encoder = open_encoder(find("toy:average", "tiny"), random_weights_seed=0)
    assert encoder.encode(torch.zeros(2, 3, 32, 32)).shape == (2, 4, 2, 2)


def test_a_backend_without_its_package_names_the_extra(monkeypatch):
    card = find("dinov2-tiny", "tiny")
    for extra, install in (("toys", "'svgbench[toys]'"), ("", "toybox")):
        monkeypatch.setitem(BACKENDS, card.backend, Backend("toybox:open_network", "toybox", extra))
        with pytest.raises(BadInput, match="needs the package toybox: pip install") as caught:
            open_encoder(card, random_weights_seed=0)
        assert install in str(caught.value)
