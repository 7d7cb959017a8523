"""The command `exchange`: serve the local exchange until Ctrl-C.

Its first line on standard output is JSON with `rest`, `ws`, `key_id` and `private_key_path`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
from functools import partial
from typing import TYPE_CHECKING, Final

from kalshilab.cli.terminal.interrupt import on_interrupt
from kalshilab.cli.terminal.options import Subparsers, add_tape_options, hidden_alias, settings_from
from kalshilab.config.settings import Settings
from kalshilab.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from kalshilab.exchange import Exchange
    from kalshilab.exchange.faults.faults import Faults

__all__ = ["add_parser"]

FLOWS: Final = ("tape", "synthetic")
WARM_UP_HOURS: Final = {"tape": 24.0, "synthetic": 6.0}
"""Hours of exchange time after which the sample, and generated markets, show orders and trades."""


def add_parser(commands: Subparsers) -> None:
    """Add the command to the subparsers of the `kalshilab` command."""
    parser = commands.add_parser(
        "exchange",
        help="serve the local exchange on loopback",
        description="Serve the local exchange on loopback until Ctrl-C or SIGTERM. The first line of output is a JSON "
        "object with the keys rest, ws, key_id and private_key_path.",
    )
    add_tape_options(parser)
    parser.add_argument(
        "--flow",
        choices=FLOWS,
        default="tape",
        help="play a tape, or generate endless markets from --seed; default tape",
    )
    parser.add_argument(
        "--speed", default="1", help='seconds of tape per wall-clock second, or "max"; default 1'
    )
    parser.add_argument("--port", type=int, default=0, help="TCP port; default: any free port")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of ids, faults and generated markets; default 0"
    )
    parser.add_argument(
        "--balance-dollars", dest="balance", metavar="DOLLARS", help="cash in the account; default 10000"
    )
    hidden_alias(parser, "--balance", "balance")
    parser.add_argument(
        "--warm-up-hours",
        type=float,
        metavar="HOURS",
        help="exchange time played before the server opens; default 24, 6 for generated markets, 0 with --tape",
    )
    hidden_alias(parser, "--warm-up", "warm_up_hours", float)
    parser.add_argument(
        "--fills", default="queue", help="fill model of resting orders: pessimistic, queue or optimistic"
    )
    parser.add_argument(
        "--haircut",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the displayed size that a taker does not get, from 0 to below 1; default 0",
    )
    parser.add_argument(
        "--latency-ms",
        type=float,
        default=0.0,
        metavar="MILLISECONDS",
        help="exchange time that an order takes to arrive; default 0",
    )
    hidden_alias(parser, "--latency", "latency_ms", float)
    parser.add_argument("--tier", help="rate limits of this API tier: basic, advanced, …; default: no limits")
    parser.add_argument(
        "--faults",
        metavar="NAME[,NAME…]",
        help='faults to inject, or "random"; --faults list prints their names',
    )
    parser.add_argument(
        "--fault-every-s",
        type=float,
        metavar="SECONDS",
        help="mean wall-clock time between two faults of one name; default 60",
    )
    hidden_alias(parser, "--fault-every", "fault_every_s", float)
    parser.add_argument(
        "--form", default="", help="2026-01: use the message and body formats of January 2026"
    )
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Serve the exchange until an interrupt."""
    try:
        return _run(options)
    except KeyboardInterrupt:
        return 0  # interrupted before the server was open


def _run(options: argparse.Namespace) -> int:
    # Imported late: the exchange loads polars and more.
    from kalshilab.exchange.faults.faults import FAULTS, Faults

    if options.faults == "list":
        for name, description in FAULTS.items():
            print(f"{name:20} {description}")
        return 0
    _check(options)
    settings = settings_from(options, "tape", "markets", "result_column", "speed", "balance")
    exchange = _make_exchange(options, settings)
    faults = None
    if options.faults:
        pace = 1.0 if settings.speed == "max" else max(settings.speed, 1e-3)
        mean_s = 60.0 if options.fault_every_s is None else options.fault_every_s
        faults = Faults.named(options.faults, options.seed, every_us=max(round(mean_s * pace * 1e6), 1))
    hours = options.warm_up_hours
    if hours is None:
        hours = WARM_UP_HOURS[options.flow] if settings.tape is None else 0.0
    until = exchange.now + round(hours * 3.6e9)
    while (ts := exchange.next_ts()) is not None and ts <= until:
        exchange.step()
    return asyncio.run(_serve(exchange, settings, options, faults))


def _check(options: argparse.Namespace) -> None:
    """Refuse numbers that are out of range."""
    if not 0 <= options.port <= 65_535:
        raise UsageError(f"--port must be from 1 to 65535, or 0 for any free port, got {options.port}")
    for name in ("fault_every_s", "warm_up_hours", "latency_ms"):
        number = getattr(options, name)
        if number is not None and not math.isfinite(number):
            raise UsageError(f"--{name.replace('_', '-')} must be finite, got {number:g}")
    if options.fault_every_s is not None and options.fault_every_s <= 0:
        raise UsageError(f"--fault-every-s must be > 0, got {options.fault_every_s:g}")
    if options.warm_up_hours is not None and options.warm_up_hours < 0:
        raise UsageError(f"--warm-up-hours must be >= 0, got {options.warm_up_hours:g}")


def _make_exchange(options: argparse.Namespace, settings: Settings) -> Exchange:
    from kalshilab.exchange import Exchange, FillModel, Synthetic
    from kalshilab.trade.venues.venue import read_frames
    from kalshilab.units import dollars

    make = partial(
        Exchange,
        seed=options.seed,
        balance_money_units=dollars(settings.balance),
        fills=FillModel(options.fills, options.haircut, round(options.latency_ms * 1000)),
        form=options.form,
    )
    if options.flow == "synthetic":
        if settings.tape is not None:
            raise ConfigError("flow", "synthetic", "tape, because --tape is given", "command line")
        return make(flow=Synthetic(options.seed))
    return make(*read_frames(settings))


async def _serve(
    exchange: Exchange, settings: Settings, options: argparse.Namespace, faults: Faults | None
) -> int:
    from kalshilab.exchange import serve

    stop = asyncio.Event()
    on_interrupt(stop.set)
    async with serve(
        exchange, port=options.port, speed=settings.speed, faults=faults, tier=options.tier
    ) as venue:
        facts = {
            "rest": venue.rest,
            "ws": venue.ws,
            "key_id": venue.key_id,
            "private_key_path": str(venue.private_key_path),
        }
        print(json.dumps(facts), flush=True)
        await stop.wait()
    return 0
