"""Metrics of a session in the text format of Prometheus."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalshilab.trade.live.metrics import metrics_text, write_metrics
from kalshilab.trade.status import COUNTS, Snapshot, empty_snapshot

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')


def shot(**facts: object) -> Snapshot:
    empty = empty_snapshot(
        run_id="run-1", venue="demo", strategy="rlm_no", state="READY", stopped="", finished=False, started=0, elapsed=2.5
    )  # fmt: skip
    return msgspec.structs.replace(empty, **facts)


def parsed(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return the samples of a text, after a check of its form."""
    assert text.endswith("\n")
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    kinds: dict[str, str] = {}
    last = ""
    for line in text[:-1].split("\n"):
        if line.startswith("# "):
            _, what, name, rest = line.split(" ", 3)
            assert NAME.fullmatch(name) and what in ("HELP", "TYPE")
            if what == "TYPE":
                assert name not in kinds and rest in ("counter", "gauge")
                kinds[name] = rest
            continue
        name, _, rest = line.partition("{")
        labels, _, value = rest.rpartition("} ")
        assert name in kinds and NAME.fullmatch(name)
        assert name == last or not any(known == name for known, _ in samples), (
            "samples of a metric are together"
        )
        last = name
        assert LABEL.sub("", labels) == ""
        found = frozenset((key, _unescaped(text)) for key, text in LABEL.findall(labels))
        assert (name, found) not in samples
        samples[name, found] = float(value)
    return samples


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], text)


def value(text: str, name: str, **labels: str) -> float:
    return parsed(text)[name, frozenset({"run": "run-1", "venue": "demo", **labels}.items())]


def test_counts_amounts_and_parts_have_their_units() -> None:
    text = metrics_text(
        shot(
            counts={"orders": 7, "fills": 3}, cash=12_345_678, pnl=-500_000, health={"feed": "healthy", "orders": "degraded: x"},
            strategies={"a": "on", "b": "paused"}, paused="news", order_age_s=9.5, frame_age_s=0.25, progress=0.5,
            active_markets=12,
        )
    )  # fmt: skip
    assert value(text, "kalshilab_orders_total") == 7 and value(text, "kalshilab_fills_total") == 3
    assert (
        value(text, "kalshilab_cash_dollars") == 12.345678 and value(text, "kalshilab_profit_dollars") == -0.5
    )
    assert value(text, "kalshilab_part_healthy", part="feed") == 1
    assert value(text, "kalshilab_part_healthy", part="orders") == 0
    assert value(text, "kalshilab_strategy_on", strategy="a") == 1
    assert value(text, "kalshilab_strategy_on", strategy="b") == 0
    assert value(text, "kalshilab_paused") == 1 and value(text, "kalshilab_finished") == 0
    assert value(text, "kalshilab_oldest_order_age_seconds") == 9.5
    assert value(text, "kalshilab_last_frame_age_seconds") == 0.25
    assert value(text, "kalshilab_progress_ratio") == 0.5 and value(text, "kalshilab_active_markets") == 12
    assert value(text, "kalshilab_elapsed_seconds") == 2.5
    assert value(text, "kalshilab_session", state="READY", strategy="rlm_no") == 1


def test_what_is_not_known_has_no_sample() -> None:
    text = metrics_text(shot())
    for name in ("oldest_order", "last_frame", "progress"):
        assert name not in text
    assert all(value(text, f"kalshilab_{name}_total") == 0 for name in COUNTS)


@given(
    names=st.dictionaries(st.text(max_size=8), st.sampled_from(["on", "paused"]), max_size=4),
    run_id=st.text(alphabet=st.characters(exclude_characters="\r"), max_size=8),
    cash=st.integers(-(10**15), 10**15),
)
def test_any_name_is_escaped(names: dict[str, str], run_id: str, cash: int) -> None:
    samples = parsed(metrics_text(shot(strategies=names, run_id=run_id, cash=cash)))
    shown = {dict(labels)["strategy"] for name, labels in samples if name == "kalshilab_strategy_on"}
    assert shown == set(names)
    assert samples[
        "kalshilab_cash_dollars", frozenset({"run": run_id, "venue": "demo"}.items())
    ] == pytest.approx(cash / 1e6)


def test_the_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    write_metrics(tmp_path, shot(counts={"orders": 1}))
    write_metrics(tmp_path, shot(counts={"orders": 2}))
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.prom"]
    assert value((tmp_path / "metrics.prom").read_text(encoding="utf-8"), "kalshilab_orders_total") == 2
