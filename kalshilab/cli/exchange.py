"""The command `exchange`: the exchange in a box, served until Ctrl-C.

Its first line on standard output is JSON with `rest`, `ws`, `key_id` and `private_key_path`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import signal
from typing import Any

from kalshilab.config.settings import Settings
from kalshilab.errors import ConfigError, UsageError

__all__ = ["add_parser"]

FLOWS = ("tape", "synthetic")
WARM_UP = {"tape": 24.0, "synthetic": 6.0}
"""Hours after which the sample, and made markets, have something to show to whoever looks."""


def add_parser(commands: Any, tape_options: Any) -> None:
    """Add the command to the subparsers of the `kalshilab` command."""
    parser = commands.add_parser(
        "exchange", help="serve the local exchange", description="Serve the local exchange on loopback."
    )
    tape_options(parser)
    parser.add_argument(
        "--flow",
        choices=FLOWS,
        default="tape",
        help="a tape, or endless markets made by the seed; default tape",
    )
    parser.add_argument("--speed", default="1", help='tape time per wall time, or "max"; default 1')
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("--seed", type=int, default=0, help="of ids, faults and made markets; default 0")
    parser.add_argument("--balance", help="dollars in the account; default 10000")
    parser.add_argument(
        "--warm-up",
        type=float,
        metavar="HOURS",
        help="tape hours played before it opens; default 24, 6 of made markets, and none of a tape of one's own",
    )
    parser.add_argument("--fills", default="queue", help="how makers fill: pessimistic, queue or optimistic")
    parser.add_argument(
        "--haircut",
        type=float,
        default=0.0,
        help="share of displayed depth that takers do not get; default 0",
    )
    parser.add_argument(
        "--latency",
        type=float,
        default=0.0,
        metavar="MS",
        help="exchange milliseconds an order takes to arrive",
    )
    parser.add_argument("--tier", help="whose rate limits hold: basic, advanced, …; default: no limits")
    parser.add_argument(
        "--faults",
        metavar="NAME[,NAME…]",
        help="what goes wrong, by name, or random; --faults list names them",
    )
    parser.add_argument(
        "--fault-every",
        type=float,
        metavar="SECONDS",
        help="mean wall seconds between two faults of a name; default 60",
    )
    parser.add_argument("--form", default="", help="2026-01 for the messages and bodies of January 2026")
    parser.set_defaults(command=_exchange)


def _exchange(options: argparse.Namespace) -> int:
    try:
        return _open(options)
    except KeyboardInterrupt:
        return 0  # before it served anybody


def _open(options: argparse.Namespace) -> int:
    # Late: the exchange brings polars and more.
    from kalshilab.exchange import Exchange, FillModel, Synthetic
    from kalshilab.exchange.faults.faults import FAULTS, Faults
    from kalshilab.trade.venues.venue import read_frames
    from kalshilab.units import dollars

    if options.faults == "list":
        for name, what in FAULTS.items():
            print(f"{name:20} {what}")
        return 0
    if not 0 <= options.port <= 65_535:
        raise UsageError(f"--port {options.port}: from 1 to 65535, or 0 for a free one")
    for name in ("fault_every", "warm_up", "latency"):
        number = getattr(options, name)
        if number is not None and not math.isfinite(number):
            raise UsageError(f"--{name.replace('_', '-')} {number}: a finite number")
    if options.fault_every is not None and options.fault_every <= 0:
        raise UsageError(f"--fault-every {options.fault_every:g}: seconds above 0")
    if options.warm_up is not None and options.warm_up < 0:
        raise UsageError(f"--warm-up {options.warm_up:g}: hours, or 0 for none")
    names = ("tape", "markets", "result_column", "speed", "balance")
    settings = Settings(**{n: v for n in names if (v := getattr(options, n, None)) is not None})
    fills = FillModel(options.fills, options.haircut, round(options.latency * 1000))
    more: dict[str, Any] = {
        "seed": options.seed,
        "balance": dollars(settings.balance),
        "fills": fills,
        "form": options.form,
    }
    if options.flow == "synthetic":
        if settings.tape is not None:
            raise ConfigError("flow", "synthetic", "tape, where a tape is given", "command line")
        exchange = Exchange(flow=Synthetic(options.seed), **more)
    else:
        exchange = Exchange(*read_frames(settings), **more)
    faults = None
    if options.faults:
        pace = 1.0 if settings.speed == "max" else max(settings.speed, 1e-3)
        every = max(round((60.0 if options.fault_every is None else options.fault_every) * pace * 1e6), 1)
        faults = Faults.named(options.faults, options.seed, every_us=every)
    warm_up = options.warm_up
    if warm_up is None:
        warm_up = WARM_UP[options.flow] if settings.tape is None else 0.0
    until = exchange.now + round(warm_up * 3.6e9)
    while (ts := exchange.next_ts()) is not None and ts <= until:
        exchange.step()
    return asyncio.run(_serve(exchange, settings, options, faults))


async def _serve(exchange: Any, settings: Settings, options: argparse.Namespace, faults: Any) -> int:
    from kalshilab.exchange import serve

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
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
