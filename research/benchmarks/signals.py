"""From a lake to fires, against the time to read the three columns; a grid; live trades; and other implementations.

    python research/benchmarks/signals.py [MILLIONS] [--lake FOLDER] [--only scan,grid,live,others,executors]

The lake is made on the first run and kept if FOLDER is given.  Its tape has a hundred thousand markets with
heavy-tailed numbers of trades, prices that follow a random walk, and two million trades a day.  Each measurement of the
scan runs in a separate process, so that its memory can be measured; the floor is measured in the same process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl

from kalshilab import signals
from kalshilab.signals.engine.state_pass import columns_of
from kalshilab.tape import Lake, scan_tape
from kalshilab.tape.lake.source import batches
from kalshilab.tape.schema import TAKER, TAPE_SCHEMA

DAY = 2_000_000
MARKETS = 100_000
COLUMNS = ["market", "price", "taker"]
GRID: dict[str, Any] = {
    "yes_threshold": [0.6, 0.65, 0.7, 0.75],
    "min_trades": [5, 15, 25],
    "min_drop": [2, 5, 10],
}


def made_day(day: int, rng: np.random.Generator, shares: Any) -> pl.DataFrame:
    """Return a day of trades in markets drawn by their shares, each with a price that moves by at most a cent."""
    market = np.searchsorted(shares, rng.random(DAY)).astype(np.uint32)
    order = np.argsort(market, kind="stable")
    steps = rng.integers(-1, 2, DAY)
    walked = np.cumsum(steps)
    begins = np.flatnonzero(np.diff(market[order], prepend=2**32 - 1))
    lengths = np.diff(np.append(begins, DAY))
    starts = rng.integers(20, 80, len(begins))
    walk = walked - np.repeat(walked[begins], lengths) + np.repeat(starts, lengths)
    price = np.empty(DAY, np.int16)
    price[order] = np.clip(walk, 1, 99) * 100
    lean = rng.beta(3.2, 2.2, MARKETS)
    ts = np.sort(rng.integers(0, 86_400_000_000, DAY)) + (20_000 + day) * 86_400_000_000
    return pl.DataFrame(
        {
            "ts": pl.Series(ts).cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
            "ticker": pl.Series(market).cast(pl.String),
            "market": market,
            "price": price,
            "size": rng.integers(1, 50, DAY).astype(np.uint32) * 100,
            "taker": pl.Series(np.where(rng.random(DAY) < lean[market], "yes", "no")).cast(TAKER),
            "trade_id": pl.Series([None], dtype=pl.String).new_from_index(0, DAY),
        }
    ).select(TAPE_SCHEMA.names())


def made_lake(folder: Path, prints: int) -> Lake:
    lake = Lake.create(folder)
    rng = np.random.default_rng(0)
    weights = rng.lognormal(0, 2, MARKETS)
    shares = np.cumsum(weights) / weights.sum()
    shares[-1] = 1.0
    for day in range(len(lake.files), prints // DAY):
        lake.append(made_day(day, rng, shares))
        print(f"\r  making the lake: {lake.rows / 1e6:.0f} M prints", end="", file=sys.stderr)
    print(file=sys.stderr)
    return lake


def best(work: Callable[[], Any], times: int = 5) -> float:
    taken = []
    for _ in range(times):
        began = perf_counter()
        work()
        taken.append(perf_counter() - began)
    return min(taken)


def memory() -> float:
    """Return the peak memory of this process in MB; `getrusage` would include the parent's at the time of the fork."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return float("nan")


# Each of these runs in a separate process.


def floor(lake: Lake) -> float:
    """Return the time of polars to read the columns, file after file."""

    def read() -> None:
        for file in lake.files:
            pl.read_parquet(file.path, columns=COLUMNS, hive_partitioning=False)

    return best(read)


def scan_once(path: str, rearm: bool) -> dict[str, float]:
    lake = scan_tape(path)
    signal = signals.Rlm(rearm=rearm)
    fires = signals.scan(lake, signal)
    taken = best(lambda: signals.scan(lake, signal))
    peak = memory()
    least = floor(lake)
    through = best(lambda: [None for _ in batches(lake, list(COLUMNS))])
    return {"taken": taken, "floor": least, "memory": peak, "fires": fires.height, "batches": through}


def grid_once(path: str) -> dict[str, float]:
    lake = scan_tape(path)
    one = best(lambda: signals.scan(lake, signals.Rlm()), 3)
    many = best(lambda: signals.grid(lake, signals.Rlm, **GRID), 3)
    rearmed = best(lambda: signals.grid(lake, signals.Rlm, rearm=True, **GRID), 1)
    return {"one": one, "many": many, "rearmed": rearmed, "memory": memory()}


def live_once(path: str) -> dict[str, float]:
    tape = scan_tape(path).lazy().head(400_000).collect()
    rows = tape.select(
        "ticker", pl.col("ts").dt.epoch("us"), "price", "size", pl.col("taker").cast(pl.String)
    ).rows()
    single = signals.Rlm()
    for row in rows[:100_000]:
        single.update(*row)

    def each() -> None:
        for row in rows:
            single.update(*row)

    def nothing() -> None:
        for row in rows:
            str(row)

    batched = signals.Rlm()
    arrays = columns_of(tape, ("ts", "price", "size", "taker"))
    codes = batched.codes([r[0] for r in rows])
    cut = [
        (codes[i : i + 256], *(a[i : i + 256] for a in (arrays.ts, arrays.price, arrays.size, arrays.taker)))
        for i in range(0, len(rows) - 255, 256)
    ]

    def all_batches() -> None:
        for batch in cut:
            batched.batch(*batch)

    def calls() -> None:
        for batch in cut:
            int(batch[0].max())

    return {
        "single": best(each, 3) / len(rows),
        "bare": best(nothing, 3) / len(rows),
        "batch": best(all_batches) / (256 * len(cut)),
        "bare_batch": best(calls) / (256 * len(cut)),
    }


def others_once(path: str) -> dict[str, float]:
    tape = scan_tape(path).lazy().head(DAY).collect()
    rule = {"yes_threshold": 0.7, "min_trades": 25, "min_drop": 5}
    expected = signals.rlm(tape, **rule)["row"].to_list()

    def kernel() -> list[int]:
        return signals.rlm(tape, **rule)["row"].to_list()  # type: ignore[no-any-return]

    def window() -> list[int]:
        n = pl.int_range(1, pl.len() + 1).over("market")
        fell = pl.col("price").first().over("market") - pl.col("price") >= 500
        share = (pl.col("taker") == "yes").cum_sum().over("market") / n
        firing = tape.with_row_index("row").filter((n >= 25) & fell & (share > 0.7))
        return sorted(firing.group_by("market").agg(pl.col("row").first())["row"].to_list())

    frame = tape.select(*COLUMNS).to_pandas()

    def grouped() -> list[int]:
        by = frame.groupby("market", sort=False)
        n = by.cumcount() + 1
        share = (frame["taker"] == "yes").groupby(frame["market"], sort=False).cumsum() / n
        firing = frame[(n >= 25) & (by["price"].transform("first") - frame["price"] >= 500) & (share > 0.7)]
        return sorted(firing.groupby("market").head(1).index.tolist())

    plain = tape.select("market", "price", pl.col("taker").cast(pl.String)).rows()

    def loop() -> list[int]:
        seen: dict[int, list[int]] = {}
        fires = []
        for row, (market, price, taker) in enumerate(plain):
            s = seen.get(market)
            if s is None:
                s = seen[market] = [0, 0, price, 0]
            if s[3]:
                continue
            s[0] += 1
            s[1] += taker == "yes"
            if s[0] >= 25 and s[2] - price >= 500 and s[1] / s[0] > 0.7:
                s[3] = 1
                fires.append(row)
        return fires

    for other in (window, grouped, loop):
        assert other() == expected, other.__name__
    return {f.__name__: best(f, 3) / DAY for f in (kernel, window, grouped, loop)}


def executors_once(path: str) -> dict[str, float]:
    lake, signal = scan_tape(path), signals.Rlm(rearm=True)
    whole = signals.scan(lake, signal)
    found = {"one process": best(lambda: signals.scan(lake, signal), 2)}
    with signals.spawn_pool(2) as pool:
        assert signals.scan(lake, signal, pool).equals(whole)
        found["two spawned processes, once they run"] = best(lambda: signals.scan(lake, signal, pool), 2)
    return found


def run(part: str, path: Path, *arguments: str) -> dict[str, float]:
    """Run one measurement in a separate process and return its figures."""
    command = [sys.executable, __file__, "--part", part, "--lake", str(path), *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def report(lake: Lake, only: set[str]) -> None:
    millions, path = lake.rows / 1e6, lake.path
    print(f"{millions:g} M prints of {len(lake.tickers):,} markets, {os.cpu_count()} processors")
    if "scan" in only:
        for rearm in ("", "rearm"):
            f = run("scan", path, *([f"--{rearm}"] if rearm else []))
            print(
                f"  {'all fires' if rearm else 'first fire'}: {f['taken']:.3f} s, {f['taken'] / f['floor']:.2f} x reading the "
                f"columns ({f['floor']:.3f} s; through checked batches {f['batches']:.3f} s); "
                f"{millions / f['taken']:.0f} M rows/s, {f['fires']:,.0f} fires, peak {f['memory']:.0f} MB"
            )
    if "grid" in only:
        f = run("grid", path)
        print(
            f"  grid of 36 cells: {f['many']:.3f} s, {f['many'] / f['one']:.2f} x one pass ({f['one']:.3f} s); "
            f"re-arming {f['rearmed'] / f['one']:.1f} x; peak {f['memory']:.0f} MB"
        )
    if "live" in only:
        f = run("live", path)
        print(
            f"  live: {f['single'] * 1e6:.2f} µs a print ({f['single'] / f['bare']:.1f} x a bare call to str); in batches of "
            f"256 {f['batch'] * 1e9:.1f} ns a print ({f['batch'] / f['bare_batch']:.1f} x one numpy call a batch)"
        )
    if "others" in only:
        f = run("others", path)
        least = f.pop("kernel")
        rest = ", ".join(f"{name} {t * 1e9:.0f} ns ({t / least:.0f} x)" for name, t in f.items())
        print(
            f"  {DAY / 1e6:g} M prints in memory: kernel {least * 1e9:.1f} ns a print; {rest}; the same fires"
        )
    if "executors" in only:
        f = run("executors", path)
        print("  " + ", ".join(f"{name} {t:.2f} s" for name, t in f.items()) + "; the same fires")


PARTS: dict[str, Callable[..., dict[str, float]]] = {
    "grid": grid_once,
    "live": live_once,
    "others": others_once,
    "executors": executors_once,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("millions", nargs="?", type=float, default=10)
    parser.add_argument("--lake")
    parser.add_argument("--only", default="scan,grid,live,others,executors")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--rearm", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        found = (
            scan_once(options.lake, options.rearm)
            if options.part == "scan"
            else PARTS[options.part](options.lake)
        )
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as folder:
        lake = made_lake(Path(options.lake or folder), round(options.millions * 1e6))
        report(lake, set(options.only.split(",")))


if __name__ == "__main__":
    main()
