"""Copies the stage 1 of finished runs to ``encoders/mini/results``, with weights in half precision.

python tests/helpers/ship_results.py STORE KEY...
"""

from __future__ import annotations

import sys
from pathlib import Path

from svgbench.lab.shipped import ship
from svgbench.lab.store import Store

if __name__ == "__main__":
    for key in sys.argv[2:]:
        sys.stdout.write(f"{key[:32]}: {ship(Store(Path(sys.argv[1])), 'autoencoder', key):,} bytes\n")
