"""Backtests in prints per second, beside a bare loop over the exchange core that they drive.

    python research/benchmarks/backtest.py [--prints 300000] [--markets 1000]

The floor is the exchange core alone, which plays the same tape with nobody trading.  Each figure is the best of three runs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import polars as pl

import kalshilab as kl
from kalshilab.exchange.core import Exchange

STRATEGIES = ["rlm_no", "whale_fade", "yes_80_90", kl.signals.LowLeverageVariance()]


def walk(prints: int, markets: int, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return a tape of random walks between 5 and 95 cents, and its markets, all settled at the end."""
    rng = np.random.default_rng(seed)
    market = rng.integers(0, markets, prints)
    steps = rng.choice([-1, 0, 1], prints)
    price = np.empty(prints, np.int64)
    level = rng.integers(20, 80, markets)
    for row, (place, step) in enumerate(zip(market.tolist(), steps.tolist(), strict=True)):
        level[place] = min(max(level[place] + step, 5), 95)
        price[row] = level[place]
    tickers = np.array([f"KXWALK-{n:06d}-T0" for n in range(markets)])
    start = 1_750_000_000_000_000
    tape = kl.to_tape(
        pl.DataFrame(
            {
                "ticker": tickers[market],
                "created_time": pl.Series(start + np.arange(prints) * 250_000).cast(pl.Datetime("us", "UTC")),
                "yes_price": price,
                "count": rng.integers(1, 200, prints),
                "taker_side": np.where(rng.random(prints) < 0.65, "yes", "no"),
            }
        )
    )
    table = kl.to_markets(
        pl.DataFrame(
            {
                "ticker": tickers,
                "event": [t[:-3] for t in tickers],
                "category": ["Sports"] * markets,
                "result": np.where(level > 50, "yes", "no"),
            }
        )
    )
    return tape, table


def best(run: Callable[[], object], times: int = 3) -> float:
    """Return the seconds of the fastest of several runs."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return min(taken)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prints", type=int, default=300_000)
    parser.add_argument("--markets", type=int, default=1_000)
    options = parser.parse_args()
    tape, markets = walk(options.prints, options.markets)
    settings = kl.Settings(env={}, env_file=None, categories=("all",), close_min_minutes=0)

    def bare() -> None:
        exchange = Exchange(tape, markets, echo_trades=False, archives=False)
        while exchange.step():
            pass

    floor = best(bare)
    print(f"bare exchange core: {tape.height / floor:,.0f} prints/s ({options.markets:,} markets)")
    for count in (1, 4):
        reports = []

        def trade(count: int = count, reports: list[object] = reports) -> None:
            reports.append(kl.backtest(STRATEGIES[:count], tape, markets, settings=settings))

        taken = best(trade)
        print(
            f"backtest, {count} {'strategy' if count == 1 else 'strategies'}: {tape.height / taken:,.0f} prints/s, "
            f"{taken / floor:.2f} x the bare loop; {reports[-1]}"
        )


if __name__ == "__main__":
    main()
