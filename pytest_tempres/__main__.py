"""Runs the command: ``python -m pytest_tempres``."""

from __future__ import annotations

import sys

from pytest_tempres.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
