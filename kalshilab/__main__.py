"""The `kalshilab` command; `kalshilab.cli` implements it."""

from __future__ import annotations

import sys

from kalshilab.cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
