"""The command `validate`: a signal's report card over a tape or a lake.

The exit code is 0 for every verdict: a missing edge is an answer, not a failure.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kalshilab.cli.terminal.options import Subparsers, add_tape_options, hidden_alias, settings_from
from kalshilab.errors import SignalError, UsageError

if TYPE_CHECKING:
    from kalshilab.edge.report.card import Card

__all__ = ["add_parser", "signal_of"]

REPORT_FILE: Final = "report.json"
"""A folder that holds this file is a finished run."""


def add_parser(commands: Subparsers) -> None:
    """Add the command to the subparsers of the `kalshilab` command."""
    parser = commands.add_parser(
        "validate",
        help="judge a signal over a tape or a lake",
        description="Judge a signal over a tape or a lake and print its report card: obtainable entries, costs, "
        "audits for look-ahead, statistical inference, and a verdict.",
    )
    add_tape_options(parser)
    parser.add_argument("--lake", metavar="FOLDER", help="a lake's folder, instead of --tape and --markets")
    parser.add_argument(
        "--signal",
        default="rlm",
        metavar="NAME",
        help="a built-in signal (rlm, whale_fade, …) or your own as MODULE:NAME; default rlm",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a parameter of the signal; repeatable",
    )
    parser.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="NAME=V,V,…",
        help="neighbouring values of a parameter for the robustness test; repeatable; default: one step to each side",
    )
    parser.add_argument("--claim", type=float, metavar="CENTS", help="the claimed edge, for comparison only")
    parser.add_argument("--contracts", type=int, default=10, metavar="N", help="size of an order; default 10")
    parser.add_argument(
        "--latency-s",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="time from the fire to the arrival of the order; default 2",
    )
    hidden_alias(parser, "--latency", "latency_s", float)
    parser.add_argument(
        "--trials", type=int, metavar="N", help="hypotheses tried; default: the count in the registry"
    )
    parser.add_argument("--registry", metavar="FILE", help="registry of hypotheses (JSON lines)")
    parser.add_argument(
        "--runs",
        metavar="FOLDER",
        help="runs of the live notebook; their paper trades decide the last criterion of the card",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the resampling; default 0")
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="processes that scan and resample; default 1"
    )
    parser.add_argument("--out", metavar="FOLDER", help="also save the card as JSON in this folder")
    parser.add_argument(
        "--json", action="store_true", help="print the card as one JSON object on the last line"
    )
    parser.set_defaults(command=run)


def signal_of(text: str, parameters: Mapping[str, Any]) -> Any:
    """Return a signal by name.

    Args:
        text: a built-in signal's name, or `module:name` of a class, a function, or an instance.
        parameters: constructor arguments of a class; empty for an instance or a function.

    Raises:
        UsageError: no signal of this name exists, or an instance was given parameters.
        SignalError: the signal has no such parameter, or refuses its value.
    """
    from kalshilab import signals
    from kalshilab.signals.engine.compiled_signal import CompiledSignal
    from kalshilab.signals.policy import load_object

    if ":" in text:
        target = load_object("validate", "signal", text)
    else:
        public = (getattr(signals, name) for name in dir(signals))
        classes = [c for c in public if isinstance(c, type) and issubclass(c, CompiledSignal)]
        by_name = {c.name: c for c in classes if hasattr(c, "name")}
        if text not in by_name:
            raise UsageError(
                f"--signal must be MODULE:NAME or one of {', '.join(sorted(by_name))}, got {text}"
            )
        target = by_name[text]
    if isinstance(target, type):
        accepted = inspect.signature(target).parameters
        accepts_any = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
        for name, value in parameters.items():
            if name not in accepted and not accepts_any:
                raise SignalError(text, name, value, f"a parameter of it: {', '.join(accepted)}")
        return target(**parameters)
    if parameters:
        raise UsageError(
            f"--set cannot change {text}, which is an instance; name its class or function instead"
        )
    return target


def run(options: argparse.Namespace) -> int:
    """Judge the signal and print its card."""
    # Imported late: no other command needs any of it.
    from kalshilab.edge.report.validate import validate
    from kalshilab.signals.scan import spawn_pool
    from kalshilab.tape import scan_tape
    from kalshilab.trade.session.paper_entries import paper_entries
    from kalshilab.trade.venues.venue import read_frames

    settings = settings_from(options, "tape", "markets", "result_column")
    if options.lake and settings.tape:
        raise UsageError("--lake and --tape exclude each other; give one of them")
    tape, markets = (scan_tape(options.lake), None) if options.lake else read_frames(settings)
    if ":" in options.signal and "" not in sys.path:
        # As for `kalshilab live`: an installed script does not have the working folder on its path.
        sys.path.insert(0, "")
    signal = signal_of(options.signal, {name: _parse_value(v) for name, v in _pairs("set", options.set)})
    grid = {name: [_parse_value(v) for v in text.split(",")] for name, text in _pairs("grid", options.grid)}
    for name in ("processes", "contracts", "trials"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} must be >= 1, got {value}")
    if options.latency_s < 0:
        raise UsageError(f"--latency-s must be >= 0, got {options.latency_s:g}")
    with nullcontext() if options.processes == 1 else spawn_pool(options.processes) as executor:
        card = validate(
            signal,
            tape,
            markets,
            claim=options.claim,
            seed=options.seed,
            contracts=options.contracts,
            latency_s=options.latency_s,
            grid=grid or None,
            trials=options.trials,
            registry=options.registry,
            executor=executor,
        )
    if options.runs:
        card = card.with_live(paper_entries(_runs(options.runs), getattr(tape, "markets", markets)))
    _print_card(card)
    if options.out:
        print(f"written: {card.save(options.out)}")
    if options.json:
        print(json.dumps(json.loads(card.to_json()), separators=(",", ":"), ensure_ascii=False))
    return 0


def _print_card(card: Card) -> None:
    print(card.header)
    width = max(len(line.name) for line in card.criteria)
    for line in card.criteria:
        mark = {True: "pass", False: "FAIL", None: "  - "}[line.passed]
        print(f"  {line.number:2} {line.name:{width}} {mark}  {line.value}  ({line.threshold})")
        if line.detail:
            print(f"     {'':{width}}       {line.detail}")


def _runs(folder: str) -> list[str | Path]:
    """Return the finished runs in a folder, or the folder itself if it is one."""
    if (Path(folder) / REPORT_FILE).is_file():
        return [Path(folder)]
    runs = sorted(path.parent for path in Path(folder).glob(f"*/{REPORT_FILE}"))
    if not runs:
        raise UsageError(f"--runs {folder}: no finished run in this folder")
    return list(runs)


def _pairs(option: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    pairs = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise UsageError(f"--{option} must be NAME=VALUE, got {text}")
        pairs.append((name.strip(), value))
    return pairs


def _parse_value(text: str) -> Any:
    """Return a value as typed: a JSON number, true, false or null, else the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
