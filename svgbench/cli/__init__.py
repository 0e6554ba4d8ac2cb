"""The command line."""

import sys

try:
    import fcntl  # noqa: F401
except ImportError:  # Windows
    sys.stderr.write("svgbench: its commands need a Unix system (file locks); use Linux, macOS, or WSL on Windows.\n")
    raise SystemExit(2) from None
