"""The equity curve: samples of the account in bounded memory, and the few of them that the journal keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["DAY_US", "EquityCurve", "not_implied"]

SAMPLES: Final = 4096
"""Samples that are kept; beyond them every second one is dropped, and the spacing doubles."""
RECORD_US: Final = 60_000_000
"""Exchange microseconds between two samples in the journal."""
DAY_US: Final = 86_400_000_000
NOT_IMPLIED: Final = ("trades", "filtered", "reconnects", "gaps", "frames", "lookup_errors")
"""Counters of a session that no entry of the journal implies."""


class EquityCurve:
    """Samples of an account.

    Attributes:
        samples: (exchange time, cash, value of positions), in microseconds and money units; the first is the start.

    >>> curve = EquityCurve()
    >>> curve.add(5, 100, 0); curve.add(6, 90, 20); curve.samples
    [(5, 100, 0), (6, 90, 20)]
    >>> curve.is_due(6), curve.is_due(7), curve.is_due(RECORD_US + 6)
    (True, False, True)
    """

    __slots__ = ("_recorded", "_spacing", "samples")

    def __init__(self) -> None:
        self.samples: list[tuple[int, int, int]] = []
        self._spacing = 0
        self._recorded: int | None = None

    def add(self, ts: int, cash: int, value: int) -> None:
        """Add one sample; it replaces the last one if that is nearer than the spacing."""
        samples = self.samples
        if len(samples) > 1 and ts - samples[-2][0] <= self._spacing:
            samples[-1] = ts, cash, value
            return
        samples.append((ts, cash, value))
        if len(samples) > SAMPLES:
            span = samples[-1][0] - samples[0][0]
            self._spacing = max(2 * self._spacing, span // SAMPLES * 2)
            self.samples = [*samples[:-1:2], samples[-1]]

    def is_due(self, now: int) -> bool:
        """Return whether the journal needs a sample now: the first, one a minute, and the first of a UTC day."""
        last = self._recorded
        if last is not None and last <= now < last + RECORD_US and now // DAY_US == last // DAY_US:
            return False
        self._recorded = now
        return True

    @property
    def pnl(self) -> int:
        """The change of the equity since the first sample, in money units."""
        if not self.samples:
            return 0
        first, last = self.samples[0], self.samples[-1]
        return last[1] + last[2] - first[1] - first[2]

    def __repr__(self) -> str:
        return f"EquityCurve({len(self.samples)} samples)"


def not_implied(counts: Mapping[str, int]) -> dict[str, int]:
    """Return the counters that no entry of the journal implies, those of 0 left out."""
    return {name: counts[name] for name in NOT_IMPLIED if counts.get(name)}
