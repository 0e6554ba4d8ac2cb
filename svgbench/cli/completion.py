"""Shell completion of the names of experiments and encoders."""

from __future__ import annotations

from svgbench.shelf import entries


def complete_experiments(incomplete: str) -> list[str]:
    """Experiments of the shelf, then encoders."""
    return [name for name in entries("ablations") if name.startswith(incomplete)] + complete_encoders(incomplete)


def complete_encoders(incomplete: str) -> list[str]:
    """Families and cards of the shelf."""
    from svgbench.config.cards import load_cards

    cards = load_cards(None)
    names = sorted({card.family for card in cards.values()} | set(cards))
    return [name for name in names if name.startswith(incomplete)]
