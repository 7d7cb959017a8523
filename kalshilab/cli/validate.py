"""The command `validate`: a signal's report card over a tape or a lake.

Exit code 0 whatever the verdict is: an edge that is not there is an answer, not a failure.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

from kalshilab.config.settings import Settings
from kalshilab.errors import SignalError, UsageError

__all__ = ["add_parser", "signal_of"]

REPORT: Final = "report.json"
"""By this a finished run is known."""


def add_parser(commands: Any, tape_options: Any) -> None:
    """Add the command to the subparsers of the `kalshilab` command."""
    parser = commands.add_parser(
        "validate",
        help="judge a signal: a report card",
        description="Judge a signal over a tape: entries that could be had, costs, audits for look-ahead, inference.",
    )
    tape_options(parser)
    parser.add_argument("--lake", help="a lake's folder, instead of --tape")
    parser.add_argument(
        "--signal", default="rlm", help="rlm, whale_fade, …, or MODULE:NAME of one's own; default rlm"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the signal"
    )
    parser.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="NAME=V,V,…",
        help="neighbouring values of a parameter; default: a step to each side",
    )
    parser.add_argument("--claim", type=float, metavar="CENTS", help="the edge that was claimed for it")
    parser.add_argument("--contracts", type=int, default=10, help="size of an order; default 10")
    parser.add_argument(
        "--latency",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="from the fire to the order's arrival; default 2",
    )
    parser.add_argument(
        "--trials", type=int, help="hypotheses tried; default: those that the registry counts"
    )
    parser.add_argument("--registry", metavar="FILE", help="registry of hypotheses (JSON lines)")
    parser.add_argument(
        "--runs", metavar="FOLDER", help="runs of the live notebook: paper trades decide the card's last line"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="scan and resample on so many; default 1"
    )
    parser.add_argument("--out", metavar="FOLDER", help="also write the card as JSON into a folder")
    parser.add_argument(
        "--json", action="store_true", help="print the card as one JSON object as the last line"
    )
    parser.set_defaults(command=_validate)


def signal_of(text: str, parameters: dict[str, Any]) -> Any:
    """A signal by name: one of `kalshilab.signals`, or `module:name` of a class, a function, or one made already.

    Raises:
        UsageError: no such signal, or parameters for one that is made already.
        SignalError: a parameter it does not take, or a value it cannot have.
    """
    from kalshilab import signals
    from kalshilab.signals.engine.compiled_signal import CompiledSignal
    from kalshilab.signals.policy import load_object

    if ":" in text:
        found = load_object("validate", "signal", text)
    else:
        public = (getattr(signals, name) for name in dir(signals))
        classes = [c for c in public if isinstance(c, type) and issubclass(c, CompiledSignal)]
        named = {c.name: c for c in classes if hasattr(c, "name")}
        if text not in named:
            raise UsageError(f"--signal {text}: {', '.join(sorted(named))}, or MODULE:NAME of one's own")
        found = named[text]
    if isinstance(found, type):
        takes = inspect.signature(found).parameters
        anything = any(p.kind is p.VAR_KEYWORD for p in takes.values())
        for name, value in parameters.items():
            if name not in takes and not anything:
                raise SignalError(text, name, value, f"one of its parameters {', '.join(takes)}")
        return found(**parameters)
    if parameters:
        raise UsageError(f"--set: {text} is made already, with its parameters; name its class or function")
    return found


def _validate(options: argparse.Namespace) -> int:
    # Late: who serves or trades needs none of it.
    from kalshilab.edge.report.validate import validate
    from kalshilab.signals.scan import spawn_pool
    from kalshilab.tape import scan_tape
    from kalshilab.trade.session.paper_entries import paper_entries
    from kalshilab.trade.venues.venue import read_frames

    names = ("tape", "markets", "result_column")
    settings = Settings(**{n: v for n in names if (v := getattr(options, n, None)) is not None})
    if options.lake and settings.tape:
        raise UsageError("--lake and --tape: one of them")
    tape, markets = (scan_tape(options.lake), None) if options.lake else read_frames(settings)
    if ":" in options.signal and "" not in sys.path:
        # As for `kalshilab live`: a module of the working folder counts, where an installed script has its own.
        sys.path.insert(0, "")
    signal = signal_of(options.signal, {name: _one(v) for name, v in _pairs("set", options.set)})
    grid = {name: [_one(v) for v in values.split(",")] for name, values in _pairs("grid", options.grid)}
    for name in ("processes", "contracts", "trials"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value}: at least 1")
    if options.latency < 0:
        raise UsageError(f"--latency {options.latency:g}: seconds, from 0")
    with nullcontext() if options.processes == 1 else spawn_pool(options.processes) as executor:
        card = validate(
            signal,
            tape,
            markets,
            claim=options.claim,
            seed=options.seed,
            contracts=options.contracts,
            latency_s=options.latency,
            grid=grid or None,
            trials=options.trials,
            registry=options.registry,
            executor=executor,
        )
    if options.runs:
        card = card.with_live(paper_entries(_runs(options.runs), getattr(tape, "markets", markets)))
    print(card.header)
    width = max(len(line.name) for line in card.criteria)
    for line in card.criteria:
        mark = {True: "pass", False: "FAIL", None: "  - "}[line.passed]
        print(f"  {line.number:2} {line.name:{width}} {mark}  {line.value}  ({line.threshold})")
        if line.detail:
            print(f"     {'':{width}}       {line.detail}")
    if options.out:
        print(f"written: {card.save(options.out)}")
    if options.json:
        print(json.dumps(json.loads(card.to_json()), separators=(",", ":"), ensure_ascii=False))
    return 0


def _runs(folder: str) -> list[Path]:
    """The finished runs in a folder, or the folder itself if it is one."""
    if (Path(folder) / REPORT).is_file():
        return [Path(folder)]
    found = sorted(path.parent for path in Path(folder).glob(f"*/{REPORT}"))
    if not found:
        raise UsageError(f"--runs {folder}: no finished run there")
    return found


def _pairs(option: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    pairs = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise UsageError(f"--{option} {text}: written as NAME=VALUE")
        pairs.append((name.strip(), value))
    return pairs


def _one(text: str) -> Any:
    """A value as typed: a number, true, false or null, else the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
