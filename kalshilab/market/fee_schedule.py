"""Fees in force by series, role and date.

The fee of a fill follows from the fee type and the multiplier that its series had on that day
(`kalshilab.market.fees` has the formulas and the rounding).  The published history:

=================== =========================================== ================================================
from                takers                                      makers
=================== =========================================== ================================================
start               0.14 · C · P · (1 − P): multiplier 2        nothing
2021-08-01          0.07 · C · P · (1 − P)
2025-05-13                                                      series with maker fees: $0.0025 a contract
2025-07-08                                                      the same: 0.0175 · C · P · (1 − P)
=================== =========================================== ================================================

S&P 500 and Nasdaq-100 series pay half.  The first and the third line come from secondary sources.  The API's series
fee changes (`changes`) override the whole table, and a market's own fee type and multiplier override the values of
its series.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from kalshilab.errors import ConfigError
from kalshilab.market.fees import FEE_TYPES, FeeGrid, fill_fee
from kalshilab.units import MONEY, PRICE, SIZE

__all__ = ["INDEX_SERIES", "FeeSchedule"]

INDEX_SERIES: Final = ("INX", "INXD", "INXW", "INXU", "INXY", "NASDAQ100", "NASDAQ100D", "NASDAQ100W", "NASDAQ100U", "NASDAQ100Y")  # fmt: skip
"""Series tickers that pay half; each also stands for the ticker with the prefix KX."""
_HALVED: Final = datetime(2021, 8, 1, tzinfo=UTC)
_FLAT_SINCE: Final = datetime(2025, 5, 13, tzinfo=UTC)
_FLAT_UNTIL: Final = datetime(2025, 7, 8, tzinfo=UTC)
_FLAT: Final = 0.0025
"""Dollars per contract."""
_CHANGES: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "series": pl.String,
    "from_ts": pl.Datetime("us", "UTC"),
    "fee_type": pl.String,
    "fee_multiplier": pl.Float64,
}


class FeeSchedule:
    """Fees of fills in the past.

    Args:
        changes: the API's series fee changes, one per row: `series, from_ts, fee_type, fee_multiplier`.  From its
            first change on, a series follows its changes and not the fee terms of its markets.
        grid: "direct" ($0.0001, API members) or "cent" ($0.01, through a broker).

    >>> FeeSchedule(grid="cent").fee("KXFED", 0.50, contracts=1, ts=datetime(2025, 12, 5, tzinfo=UTC))
    0.02

    Raises:
        ConfigError: the changes lack a column, contain a null, or have a fee type without a formula.
    """

    def __init__(self, changes: pl.DataFrame | None = None, *, grid: FeeGrid = "direct") -> None:
        table = pl.DataFrame(schema=_CHANGES) if changes is None else changes
        for name, dtype in _CHANGES.items():
            if name not in table.columns:
                raise ConfigError("changes", list(table.columns), f"a frame with the column {name!r}")
            if table[name].null_count():
                raise ConfigError("changes", None, f"free of nulls in {name!r}")
            table = table.with_columns(pl.col(name).cast(dtype))
        unknown = table.filter(~pl.col("fee_type").is_in(FEE_TYPES))
        if unknown.height:
            raise ConfigError("fee_type of changes", unknown["fee_type"][0], "one of " + ", ".join(FEE_TYPES))
        self._changes = table.select(*_CHANGES).sort("from_ts")
        self._grid = grid

    def described(self) -> dict[str, object]:
        """Return what the schedule adds to the published table, as plain values: its grid and its changes."""
        rows = self._changes.with_columns(pl.col("from_ts").dt.epoch("us"))
        return {"grid": self._grid, "changes": [list(row) for row in rows.iter_rows()]}

    def fee(
        self,
        series: str,
        price: float,
        *,
        contracts: int,
        ts: datetime,
        role: Literal["taker", "maker"] = "taker",
        fee_type: str | None = None,
        multiplier: float | None = None,
    ) -> float:
        """Return the fee per contract, in dollars, of one fill of `contracts` at `price` dollars."""
        frame = pl.DataFrame(
            {"series": [series], "ts": [ts], "fee_type": [fee_type], "fee_multiplier": [multiplier]},
            schema={"series": pl.String, "ts": pl.Datetime("us", "UTC"), "fee_type": pl.String, "fee_multiplier": pl.Float64},
        )  # fmt: skip
        return float(self.fees(frame, np.array([price]), contracts=contracts, role=role)[0])

    def fees(
        self,
        fills: pl.DataFrame,
        prices: npt.NDArray[np.float64],
        *,
        contracts: int,
        role: Literal["taker", "maker"] = "taker",
    ) -> npt.NDArray[np.float64]:
        """Return the fees per contract, in dollars, of fills that are one order each.

        Args:
            fills: columns `series`, `ts` (time of the fill), `fee_type` and `fee_multiplier` (of the market; null
                where unknown).
            prices: dollars of the side bought, on the grid of 1/10,000.  The fee is symmetric, but on the cent grid
                its rounding is not where prices are finer than a cent.
            contracts: contracts of each fill.
            role: "taker" or "maker".

        Raises:
            ConfigError: a fee type has no formula, or `contracts` is below 1.
        """
        if contracts < 1:
            raise ConfigError("contracts", contracts, "a whole number from 1")
        units = np.rint(prices * PRICE).astype(np.int64)
        keys = self._terms(fills).with_columns(pl.Series("price", units))
        table = keys.unique()
        fees = [self._one(t, m, e, p, contracts, role) for t, m, e, p in table.iter_rows()]
        joined = keys.join(
            table.with_columns(pl.Series("fee", fees, dtype=pl.Float64)),
            on=table.columns,
            how="left",
            maintain_order="left",
            nulls_equal=True,
        )
        return joined["fee"].to_numpy()

    def _terms(self, fills: pl.DataFrame) -> pl.DataFrame:
        """Return `fee_type, multiplier, era` of each fill; `era` is 1 while makers paid a flat fee."""
        frame = fills.select("series", "ts", "fee_type", "fee_multiplier").with_row_index("_row")
        dated = (
            frame.sort("ts")
            .join_asof(
                self._changes.rename({"from_ts": "ts", "fee_type": "_type", "fee_multiplier": "_multiplier"}),
                on="ts",
                by="series",
                strategy="backward",
                check_sortedness=False,
            )
            .sort("_row")
        )
        bare = pl.col("series").str.strip_prefix("KX")
        usual = pl.when(bare.is_in(INDEX_SERIES)).then(0.5).otherwise(1.0)
        # A table of markets has a multiplier of 1 for index series wherever the true one was unknown.
        market_multiplier = (
            pl.when(bare.is_in(INDEX_SERIES) & (pl.col("fee_multiplier") == 1.0))
            .then(None)
            .otherwise("fee_multiplier")
        )
        early = pl.when(pl.col("ts") < _HALVED).then(2.0).otherwise(1.0)
        return dated.select(
            pl.coalesce("_type", "fee_type", pl.lit("quadratic")).alias("fee_type"),
            pl.coalesce("_multiplier", market_multiplier * early, usual * early).alias("multiplier"),
            pl.when(pl.col("ts") < _FLAT_SINCE)
            .then(0)
            .when(pl.col("ts") < _FLAT_UNTIL)
            .then(1)
            .otherwise(2)
            .alias("era"),
        )

    def _one(
        self, fee_type: str, multiplier: float, era: int, price: int, contracts: int, role: str
    ) -> float:
        if not 0 < price < PRICE:
            return 0.0
        if role == "maker" and fee_type != "quadratic" and era < 2:
            return _FLAT if era == 1 else 0.0
        fee = fill_fee(
            price,
            contracts * SIZE,
            taker=role == "taker",
            multiplier=multiplier,
            fee_type=fee_type,
            grid=self._grid,
        )
        return fee / MONEY / contracts
