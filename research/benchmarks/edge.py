"""Time of a verdict, and speed-up of a grid on two processes.

    python research/benchmarks/edge.py [--lake FOLDER] [--only verdict,card,resample,grid]

The verdict is lines 3 to 8 of the card for 2,000 entries with 1,999 resamples; the card starts from a tape and
includes the audits.  Their floors are one pass of the signal over the same tape, and one draw of the outcomes under the
null.  The speed-up of two processes over one is measured on spawned pools: for the verdict in a family of 600 trials,
which needs 50,000 resamples, and for a grid whose cells share no state.  A worker scans on one thread; this process,
named last, divides a grid among two threads.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import kalshilab as kl
from kalshilab.edge.prereg.hypothesis import hypothesis_of
from kalshilab.edge.prereg.registry import Registry
from kalshilab.edge.report.statistical_verdict import judge
from kalshilab.edge.stats import simulated_entries
from kalshilab.edge.stats.martingale import null_means
from kalshilab.signals.scan import spawn_pool
from kalshilab.tape import Lake, scan_tape


def timed(work: Any, times: int = 3) -> float:
    """Return the time of the fastest run in seconds."""
    best = float("inf")
    for _ in range(times):
        begin = perf_counter()
        work()
        best = min(best, perf_counter() - begin)
    return best


def verdict() -> None:
    for kind, events in (("single", 2000), ("ladder", 2000)):
        signal, pool = simulated_entries.entries(events, kind=kind, edge=4.0, seed=1)  # type: ignore[arg-type]
        judge(signal, pool, walk_forward=1.0)
        whole = timed(lambda signal=signal, pool=pool: judge(signal, pool, walk_forward=1.0))
        floor = timed(lambda signal=signal: null_means(signal, resamples=1999))
        print(
            f"verdict on {events:,} {kind} events, B = 1,999: {whole:.2f} s, {whole / floor:.1f} x drawing the null ({floor:.3f} s)"
        )


def card() -> None:
    tape, markets = kl.synth.martingale(n_markets=60_000, seed=1, edge=8.0)
    signal = kl.signals.Rlm()

    def whole() -> Any:
        registry = Registry()
        registry.register(hypothesis_of(signal, id="A", family="f", mechanism="m", author="a"))
        return kl.validate(signal, tape, markets, registry=registry)

    card = whole()
    took, floor = timed(whole), timed(lambda: signal.run(tape))
    print(
        f"card of {card.numbers['kept']:,} fires on {tape.height:,} prints, audits and 8 settings included: {took:.2f} s, "
        f"{took / floor:.0f} x one pass of the signal ({floor * 1000:.0f} ms); {card.verdict}"
    )


def grid(path: Path) -> None:
    source = scan_tape(path)
    cells = {
        "yes_threshold": [0.6, 0.65, 0.7, 0.75],
        "min_trades": [5, 15, 25],
        "min_drop": [2, 5, 10],
        "rearm": True,
    }
    print(
        f"grid of 36 cells that re-arm, {source.rows:,} prints: "
        + compared(lambda pool: kl.signals.grid(source, kl.signals.Rlm, executor=pool, **cells))
    )


def resample() -> None:
    signal, pool = simulated_entries.entries(2000, kind="ladder", edge=4.0, seed=1)
    print(
        "verdict on 2,000 ladder events in a family of 600, B = 50,000: "
        + compared(lambda executor: judge(signal, pool, trials=600, walk_forward=1.0, executor=executor))
    )


def compared(work: Any) -> str:
    """Describe the time on one worker process, on two, and in this process."""
    took = []
    for workers in (1, 2):
        with spawn_pool(workers) as pool:
            work(pool)  # Starts the workers and compiles.
            took.append(timed(lambda pool=pool: work(pool)))
    here = timed(lambda: work(None))
    return f"one process {took[0]:.2f} s, two {took[1]:.2f} s ({took[0] / took[1]:.2f} x as fast), this one {here:.2f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lake", help="a lake for the grid; default: one of 3 M simulated trades")
    parser.add_argument("--only", default="verdict,card,resample,grid")
    options = parser.parse_args()
    wanted = options.only.split(",")
    if "verdict" in wanted:
        verdict()
    if "card" in wanted:
        card()
    if "resample" in wanted:
        resample()
    if "grid" in wanted:
        if options.lake:
            grid(Path(options.lake))
        else:
            with tempfile.TemporaryDirectory() as folder:
                lake = Lake.create(Path(folder, "lake"))
                lake.append(*kl.synth.martingale(n_markets=160_000, seed=2))
                grid(lake.path)


if __name__ == "__main__":
    main()
