"""Parquet to fires, against the time just to read the three columns; and one live print at a time."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import polars as pl

from kalshilab.signals import Rlm, rlm
from kalshilab.tape.schema import TAKER


def made(prints: int, markets: int = 100_000) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    market = rng.zipf(1.2, prints) % markets
    return pl.DataFrame(
        {
            "ts": pl.Series(np.arange(prints) * 1000).cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
            "market": market.astype(np.uint32),
            "price": (rng.integers(1, 100, prints) * 100).astype(np.int16),
            "size": np.full(prints, 100, np.uint32),
            "taker": pl.Series(np.where(rng.random(prints) < 0.6, "yes", "no")).cast(TAKER),
        }
    ).with_columns(ticker=pl.col("market").cast(pl.String))


def best(work: object, times: int = 5) -> float:
    taken = []
    for _ in range(times):
        began = perf_counter()
        work()  # type: ignore[operator]
        taken.append(perf_counter() - began)
    return min(taken)


def main() -> None:
    millions = float(sys.argv[1]) if len(sys.argv) > 1 else 5
    tape = made(round(millions * 1e6))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tape.parquet"
        tape.write_parquet(path, compression="zstd")
        columns = ["market", "price", "taker"]
        floor = best(lambda: pl.read_parquet(path, columns=columns))
        print(
            f"{millions:g} M prints; reading three columns: {floor:.3f} s ({millions / floor:.0f} M rows/s)"
        )
        for rearm in (False, True):
            rlm(tape, rearm=rearm)
            kernel = best(lambda rearm=rearm: rlm(tape, rearm=rearm))
            name = "all fires" if rearm else "first fire"
            print(
                f"  {name}: {kernel:.3f} s after reading; read + run {(floor + kernel) / floor:.2f} x the floor"
            )
        signal = Rlm()
        rows = tape.head(200_000).select(
            "ticker", pl.col("ts").dt.epoch("us"), "price", "size", pl.col("taker").cast(pl.String)
        ).rows()  # fmt: skip
        signal.update(*rows[0])

        def live() -> None:
            for row in rows:
                signal.update(*row)

        def nothing() -> None:
            for row in rows:
                str(row)

        taken, idle = best(live, 3), best(nothing, 3)
        print(f"  one live print: {taken / len(rows) * 1e6:.2f} µs ({taken / idle:.1f} x a bare call to str)")


if __name__ == "__main__":
    main()
