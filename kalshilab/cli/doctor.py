"""The command `doctor`: check this installation and its settings, or a lake."""

from __future__ import annotations

import argparse
import os
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Final

from kalshilab.cli.live import installed_fast_packages, require_fast_extra
from kalshilab.cli.terminal.options import Subparsers
from kalshilab.config.settings import Settings
from kalshilab.errors import LakeError, UsageError

__all__ = ["add_parser"]

MAX_FINDINGS: Final = 12
"""Findings of one severity that are printed."""


def add_parser(commands: Subparsers) -> None:
    """Add the command to the subparsers of the `kalshilab` command."""
    parser = commands.add_parser(
        "doctor",
        help="check this installation and its settings, or a lake",
        description="Check this installation and its settings; given a lake, check every byte of it instead. "
        "Returns 1 if the lake is damaged.",
    )
    parser.add_argument("lake", nargs="?", metavar="LAKE", help="a lake's folder; default: the installation")
    parser.add_argument("--repair", action="store_true", help="remove damaged days from the lake's manifest")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Check the installation or the lake; return 1 if the lake is damaged."""
    if options.lake is not None:
        return _check_lake(options.lake, repair=options.repair)
    if options.repair:
        raise UsageError("--repair needs a lake: kalshilab doctor LAKE --repair")
    return _check_installation()


def _check_installation() -> int:
    import importlib.metadata
    import platform

    print(f"Python {platform.python_version()}, kalshilab {importlib.metadata.version('kalshilab')}")
    for name in ("polars", "numba", "websockets", "httpx", "papermill", "ipykernel", "ipywidgets", "plotly"):
        print(f"  {name} {importlib.metadata.version(name)}")
    print(f"  extra fast: {installed_fast_packages() or 'not installed; pip install kalshilab[fast]'}")
    settings = Settings()
    print(f"settings: {settings!r}")
    require_fast_extra(settings)
    if settings.key_id and (settings.private_key_path or settings.private_key):
        from kalshilab.kalshi.auth import Signer

        print(f"key: {Signer.from_settings(settings)!r}")
    else:
        print("key: not set; the demo and shadow venues need one, the embedded venue does not")
    out = Path(settings.out)
    probe = next(p for p in (out.resolve(), *out.resolve().parents) if p.exists())
    if not os.access(probe, os.W_OK):
        raise UsageError(f"{probe} is not writable; choose another folder with KALSHILAB_OUT")
    print(f"runs go to {out.resolve()}")
    return 0


def _check_lake(path: str, *, repair: bool) -> int:
    from kalshilab.tape.lake.doctor import doctor
    from kalshilab.tape.lake.doctor import repair as repair_lake
    from kalshilab.tape.lake.lake import Lake

    if repair:
        # Not through `Lake`: a lake with a damaged manifest cannot be opened, and needs repair most.
        for action in repair_lake(path):
            print(action)
    findings = doctor(path)
    # A lake that cannot be opened is one of the findings.
    with suppress(LakeError):
        lake = Lake.open(path)
        print(
            f"{lake.path}: {lake.rows:,} prints of {len(lake.tickers):,} markets in {len(lake.files):,} days"
        )
    for severity, group in groupby(sorted(findings, key=lambda f: f.severity), key=lambda f: f.severity):
        same = list(group)
        for finding in same[:MAX_FINDINGS]:
            where = "" if finding.file is None else f"{finding.file}: "
            print(f"  {severity}: {where}{finding.text}")
        if len(same) > MAX_FINDINGS:
            print(f"  {severity}: … and {len(same) - MAX_FINDINGS:,} more")
    damaged = any(f.severity == "error" for f in findings)
    if damaged and not repair:
        print(f"run: kalshilab doctor {path} --repair")
    if not findings:
        print("  no damage: every file is as it was written")
    return 1 if damaged else 0
