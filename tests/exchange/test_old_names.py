"""Keywords and names used before version 0.2 still work, with a `DeprecationWarning`."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import pytest

import kalshilab as kl
from kalshilab.exchange.flows.synthetic_series import SeriesPlan
from kalshilab.exchange.flows.tape_flow import TapeFlow
from kalshilab.exchange.state.fee_terms import Tariff

OLD_KEYWORDS: dict[str, Callable[[], object]] = {
    "Exchange(): the keyword 'balance' is now 'balance_money_units'": lambda: kl.Exchange(
        *kl.sample(), balance=kl.dollars(1)
    ),
    "Exchange(): the keyword 'spread' is now 'spread_price_units'": lambda: kl.Exchange(
        *kl.sample(), spread=100
    ),
    "Exchange(): the keyword 'settle_after' is now 'settle_after_us'": lambda: kl.Exchange(
        *kl.sample(), settle_after=1
    ),
    "Exchange(): the keyword 'archive_after' is now 'archive_after_us'": lambda: kl.Exchange(
        *kl.sample(), archive_after=1
    ),
    "FillModel(): the keyword 'latency' is now 'latency_us'": lambda: kl.exchange.FillModel(latency=1),
    "FillModel.latency is now latency_us": lambda: kl.exchange.FillModel().latency,
    "Synthetic(): the keyword 'rate' is now 'rate_per_s'": lambda: kl.exchange.Synthetic(rate=1.0),
    "Synthetic(): the keyword 'start' is now 'start_us'": lambda: kl.exchange.Synthetic(start=0),
    "Synthetic(): the keyword 'settle_after' is now 'settle_after_us'": lambda: kl.exchange.Synthetic(
        settle_after=1
    ),
    "Synthetic(): the keyword 'retire_after' is now 'retire_after_us'": lambda: kl.exchange.Synthetic(
        retire_after=1
    ),
    "Mirror(): the keyword 'start' is now 'start_us'": lambda: kl.exchange.Mirror(start=1),
    "TapeFlow(): the keyword 'settle_after' is now 'settle_after_us'": lambda: TapeFlow(
        *kl.sample(), settle_after=1
    ),
    "SeriesPlan(): the keyword 'slack' is now 'slack_us'": lambda: SeriesPlan(
        "S", "C", "T", "single", 1, 1, 1, slack=1
    ),
    "Tariff.waive(): the keyword 'until' is now 'until_us'": lambda: Tariff(print).waive("T", until=1),
}


@pytest.mark.parametrize("message", OLD_KEYWORDS)
def test_an_old_name_works_and_warns(message: str) -> None:
    with pytest.warns(DeprecationWarning) as caught:
        OLD_KEYWORDS[message]()
    assert [str(w.message) for w in caught] == [message]


def test_old_and_new_values_are_the_same() -> None:
    with pytest.warns(DeprecationWarning):
        model = kl.exchange.FillModel(latency=5)  # type: ignore[call-arg]
    assert model == kl.exchange.FillModel(latency_us=5)
    with pytest.raises(TypeError, match="got both 'latency' and 'latency_us'"):
        kl.exchange.FillModel(latency=5, latency_us=5)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("package", "old", "new"),
    [
        ("flows", "Flow", "TapeFlow"),
        ("flows", "Source", "FlowSource"),
        ("flows", "Step", "FlowStep"),
        ("orders", "Floor", "DeskHost"),
        ("state", "Ghost", "ShadowOrder"),
        ("state", "PrintPage", "TradeLogPage"),
        ("background_flow", "Background", "BackgroundFlow"),
        ("market_lifecycle", "Life", "MarketLifecycle"),
        ("flows.background_quotes", "Quotes", "BackgroundQuotes"),
        ("state.shadow_fills", "Shadows", "MarketShadows"),
    ],
)
def test_an_old_class_name_works_and_warns(package: str, old: str, new: str) -> None:
    room = importlib.import_module(f"kalshilab.exchange.{package}")
    with pytest.warns(DeprecationWarning, match=f"is now {new} of"):
        assert getattr(room, old) is getattr(room, new)
