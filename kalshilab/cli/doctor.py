"""The command `doctor`: check this installation and its settings, a lake, or the journal of a run."""

from __future__ import annotations

import argparse
import os
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Final

from kalshilab.cli.live import installed_fast_packages, require_fast_extra
from kalshilab.cli.session.run_check import check_run
from kalshilab.cli.terminal.options import Subparsers, settings_from
from kalshilab.config.contradictions import check_limits
from kalshilab.config.settings import Settings
from kalshilab.config.sources import DEFAULT
from kalshilab.errors import LakeError, UsageError

__all__ = ["add_parser"]

MAX_FINDINGS: Final = 12
"""Findings of one severity that are printed."""


def add_parser(commands: Subparsers) -> None:
    """Add the command to the subparsers of the `kalshilab` command."""
    parser = commands.add_parser(
        "doctor",
        help="check this installation and its settings, a lake, or the journal of a run",
        description="Check this installation and its settings; given a lake, check every byte of it instead; given a run, "
        "check its journal, and rebuild a damaged one beside it. Returns 1 if the lake or the journal is damaged.",
    )
    parser.add_argument(
        "path", nargs="?", metavar="LAKE|RUN", help='the folder of a lake or a run, a run\'s name, or "latest"; default: the installation'
    )  # fmt: skip
    parser.add_argument(
        "--repair",
        action="store_true",
        help="remove damaged days from the lake's manifest, or put the rebuilt journal in place",
    )
    parser.add_argument(
        "--venue", help="demo: add to a rebuilt journal what the exchange confirms; needs the key of the run's account"
    )  # fmt: skip
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Check the installation, the lake or the run; return 1 if the lake or the journal is damaged."""
    if options.path is None:
        if options.repair:
            raise UsageError("--repair needs a lake or a run: kalshilab doctor LAKE --repair")
        return _check_installation()
    run_dir = _run_folder(options.path)
    if run_dir is None:
        return _check_lake(options.path, repair=options.repair)
    return check_run(run_dir, settings_from(options, "venue"), repair=options.repair)


def _run_folder(path: str) -> Path | None:
    """Return the folder of the run that a path or a name means, or None if it means a lake."""
    out = Path(Settings().out)
    if path == "latest":
        from kalshilab.trade.session.run_folder import find_run

        return find_run(path, out)
    folders = Path(path), out / path
    return next((folder for folder in folders if (folder / "journal.sqlite").is_file()), None)


def _check_installation() -> int:
    import importlib.metadata
    import platform

    print(f"Python {platform.python_version()}, kalshilab {importlib.metadata.version('kalshilab')}")
    for name in ("polars", "numba", "websockets", "httpx", "papermill", "ipykernel", "ipywidgets", "plotly"):
        print(f"  {name} {importlib.metadata.version(name)}")
    print(f"  extra fast: {installed_fast_packages() or 'not installed; pip install kalshilab[fast]'}")
    settings = Settings()
    check_limits(settings)
    print(f"settings: {settings!r}")
    for name, origin in settings.origins.items():
        if origin != DEFAULT:
            print(f"  {name} from {origin}")
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
