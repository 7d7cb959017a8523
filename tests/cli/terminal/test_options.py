"""Option values that several commands share."""

from __future__ import annotations

import argparse

import pytest

from kalshilab.cli.terminal.options import hidden_alias, parse_instant, require_finite_non_negative
from kalshilab.errors import UsageError


def test_an_instant_without_an_offset_is_utc() -> None:
    assert parse_instant("2026-01-05T12:00+01:00", 0) == parse_instant("2026-01-05T11:00", 0)
    with pytest.raises(UsageError, match="write 2026-01-31"):
        parse_instant("05.01.2026", 0)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_negative_or_infinite_number_is_refused(value: float) -> None:
    with pytest.raises(UsageError, match="--window-s must be a finite number >= 0, got"):
        require_finite_non_negative("--window-s", value)


def test_a_former_option_name_works_and_is_not_listed() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency-s", type=float, default=2.0)
    hidden_alias(parser, "--latency", "latency_s", float)
    assert parser.parse_args(["--latency", "3"]).latency_s == 3.0
    assert parser.parse_args([]).latency_s == 2.0
    assert "--latency LATENCY" not in parser.format_help()
