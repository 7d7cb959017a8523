"""Bounds of the strategies' signals with the default settings: the last value that does not fire, and the first that does."""

from __future__ import annotations

import pytest

from kalshilab.config.settings import Settings
from kalshilab.signals import Fire, Signal
from kalshilab.trade.strategies.strategies import make_strategy

SECOND = 1_000_000


def signal_of(strategy: str, **given: object) -> Signal:
    """Return the signal that a session of a strategy uses."""
    signal = make_strategy(Settings(env={}, env_file=None, strategy=strategy, **given)).signal  # type: ignore[arg-type]
    assert signal is not None
    return signal


def last_fire(signal: Signal, prints: list[tuple[int, str]], size: int = 100) -> Fire | None:
    """Give prints (YES price in cents, taker) to a signal; return the fire of the last one, the only one that may fire."""
    fire = None
    for n, (price, taker) in enumerate(prints):
        assert fire is None
        fire = signal.update("A-B-1", n * SECOND, price * 100, size, taker)
    return fire


def flow(yes: int, no: int, drop: int) -> list[tuple[int, str]]:
    """Return prints that end with a purchase of YES, `drop` cents below the first one."""
    takers = ["no"] * no + ["yes"] * (yes - 1)
    return [(50, taker) for taker in takers] + [(50 - drop, "yes")]


@pytest.mark.parametrize(
    ("yes", "no", "drop", "fires"),
    [
        (700, 300, 5, False),  # 70.0 % must be exceeded
        (701, 299, 5, True),
        (24, 0, 5, False),  # trades
        (25, 0, 5, True),
        (25, 0, 4, False),  # cents
        (25, 0, 5, True),
    ],
)
def test_reverse_line_movement_needs_share_trades_and_drop(yes: int, no: int, drop: int, fires: bool) -> None:
    assert (last_fire(signal_of("rlm_no"), flow(yes, no, drop)) is not None) == fires


def test_the_flow_counts_trades_and_not_contracts() -> None:
    signal = signal_of("rlm_no", min_trades=4)
    fires = [signal.update("A-B-1", n, price, size, taker) for n, (price, size, taker) in enumerate(
        [(5_000, 100, "yes"), (4_500, 1_000_000, "no"), (4_500, 100, "yes"), (4_400, 100, "yes")]
    )]  # fmt: skip
    assert fires[:3] == [None] * 3 and fires[3] is not None and fires[3].side == "no"


@pytest.mark.parametrize(
    ("price", "tier"),
    [(79, None), (80, "B"), (82, "B"), (83, "A"), (87, "A"), (88, "B"), (90, "B"), (91, None)],
)
def test_the_price_band_includes_both_ends(price: int, tier: str | None) -> None:
    fire = last_fire(signal_of("yes_80_90"), [(price, "no")])
    assert (None if fire is None else getattr(fire, "tier", "")) == tier
    assert fire is None or fire.side == "yes"


@pytest.mark.parametrize("strategy", ["whale_fade", "whale_follower"])
@pytest.mark.parametrize(
    ("price", "contracts", "taker", "fires"),
    [
        (33, 1_000, "yes", False),  # a win of 2.03 dollars per dollar
        (34, 1_000, "yes", True),
        (50, 199, "yes", False),  # 99.50 dollars
        (50, 200, "yes", True),
        (50, 1_000, "no", False),
    ],
)
def test_a_whale_pays_enough_for_yes_at_a_low_leverage(
    strategy: str, price: int, contracts: int, taker: str, fires: bool
) -> None:
    fire = last_fire(signal_of(strategy), [(price, taker)], size=contracts * 100)
    assert (fire is not None) == fires and (fire is None or fire.side == "no")


def test_a_full_queue_keeps_the_largest_whales() -> None:
    """A heap that removes its largest entry when it is full keeps the smallest whales."""
    signal = signal_of("whale_follower")
    paid = [200, 900, 300, 800, 400, 700, 500, 600, 1_000, 250, 199, 201, 2_000, 220]
    entered = [
        signal.update(f"M-{n}", n * SECOND, 5_000, contracts * 200, "yes") is not None
        for n, contracts in enumerate(paid)
    ]
    # Ten enter; then only those larger than the smallest of the ten: 201 replaces 200, 2,000 replaces 201, not 220.
    assert entered == [True] * 10 + [False, True, True, False]
    late = len(paid) * SECOND + 301 * SECOND
    assert signal.update("M-late", late, 5_000, 199 * 200, "yes") is not None, "old whales leave the queue"
