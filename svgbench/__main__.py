"""``python -m svgbench``: as the command ``svgbench``, which imports nothing from the current directory."""

import os
import sys

if sys.path and not sys.flags.safe_path and sys.path[0] in ("", os.getcwd()):
    del sys.path[0]

from svgbench.cli.main import main

if __name__ == "__main__":
    main()
