"""`kalshilab status`: the payload, the exit code, and the names of runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli.session.conftest import MakeRun

from kalshilab.__main__ import main
from kalshilab.trade.status import UpcomingRow, close_status, read_status

CASES = [
    ({}, "healthy", 0),
    ({"state": "ACTING", "paused": "news"}, "healthy", 0),
    ({"health": {"feed": "healthy", "discovery": "degraded: look-up"}}, "degraded", 0),
    ({"health": {"feed": "degraded: silent"}}, "unhealthy", 1),
    ({"state": "ERROR"}, "unhealthy", 1),
    ({"heartbeat_age_s": 31.0}, "silent", 1),
    ({"alive": False}, "dead", 1),
    ({"alive": False, "state": "SHUTDOWN", "finished": True, "stopped": "tape ended"}, "ended", 0),
    ({"alive": False, "state": "SHUTDOWN", "finished": True, "error": "FeedLost: gone"}, "error", 1),
]  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "word", "code"), CASES, ids=[f"{word}-{n}" for n, (_, word, _) in enumerate(CASES)]
)
def test_the_exit_code_states_whether_a_run_is_healthy(
    facts: dict[str, object], word: str, code: int, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(**facts)
    assert main(["status", str(folder), "--json"]) == code
    payload = json.loads(capsys.readouterr().out)
    assert payload["status"] == word and payload["healthy"] == (code == 0)
    assert payload["running"] == (facts.get("alive", True))
    assert main(["status", str(folder)]) == code
    assert word in capsys.readouterr().out


def test_the_payload_holds_what_a_monitor_reads(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(
        strategies={"rlm_no": "on", "custom": "paused"},
        health={"feed": "healthy", "order group": "degraded: busy"},
        upcoming=[UpcomingRow("A-1", "Title", "Sports", 1_790_000_000_000_000, 200.0)],
        active_markets=12,
        order_age_s=7.0,
    )
    assert main(["status", "--json"]) == 0
    payload = json.loads(capsys.readouterr().out)
    assert {
        "healthy",
        "status",
        "state",
        "uptime",
        "running",
        "environment",
        "markets",
        "components",
        "metrics",
    } <= payload.keys()
    assert {"trading_mode", "trading_strategy"} <= payload.keys()
    assert {
        "uptime", "state", "markets_connected", "snapshots_received", "deltas_received", "api_url", "ws_url",
    } <= payload["metrics"].keys()  # fmt: skip
    assert payload["environment"] == "demo" and payload["trading_strategy"] == "rlm_no"
    assert payload["components"]["order group"] == {"healthy": False, "detail": "degraded: busy"}
    assert payload["metrics"]["markets_connected"] == 12 and payload["metrics"]["oldest_order_age"] == 7.0
    assert payload["metrics"]["heartbeat_age"] < 60 and payload["pid"] > 0
    assert payload["upcoming"][0] == {
        "ticker": "A-1", "title": "Title", "category": "Sports", "open_time": "2026-09-21T14:13:20.000000Z",
        "countdown_seconds": 200,
    }  # fmt: skip
    assert main(["status"]) == 0
    shown = capsys.readouterr().out
    assert "strategy custom: paused" in shown and "order group: degraded: busy" in shown
    assert "A-1 opens in 200 s" in shown


def test_a_run_is_named_by_folder_id_or_latest(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("20261201T000000Z", "20261201T000000Z-2", "20261201T000000Z-10"):
        make_run(name)
    (tmp_path / "runs" / "zebra").mkdir()
    for given, found in (
        ("latest", "20261201T000000Z-10"),
        ("20261201T000000Z-2", "20261201T000000Z-2"),
        (str(tmp_path / "runs" / "20261201T000000Z"), "20261201T000000Z"),
    ):
        main(["status", given, "--json"])
        assert json.loads(capsys.readouterr().out)["run_id"] == found


def test_an_unknown_run_names_the_latest(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "latest"]) == 2
    assert "runs holds no runs" in capsys.readouterr().err
    make_run()
    assert main(["status", "x"]) == 2
    assert "x: no such run; the latest in runs: 20261201T000000Z" in capsys.readouterr().err


def test_a_run_whose_process_was_lost_has_ended_with_an_error(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(alive=False)
    close_status(
        folder / "status.json", folder.name, "demo", "rlm_no", "DeadKernelError", error="DeadKernelError"
    )
    assert main(["status", "--json"]) == 1
    payload = json.loads(capsys.readouterr().out)
    assert (payload["status"], payload["stopped"], payload["error"]) == (
        "error",
        "DeadKernelError",
        "DeadKernelError",
    )


def test_a_run_without_a_status_is_starting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "starting"


def test_a_status_file_of_version_0_1_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = {
        "run_id": "r", "venue": "embedded", "strategy": "rlm_no", "state": "SHUTDOWN", "stopped": "tape ended", "finished": True,
        "now": 5, "elapsed": 1.0, "progress": 1.0, "counts": {"trades": 3}, "cash_cents": 1, "pnl_cents": 2, "open_orders": 0,
        "open_positions": 0, "health": {},
    }  # fmt: skip
    (tmp_path / "status.json").write_text(json.dumps(old))
    status = read_status(tmp_path / "status.json")
    assert status is not None and status.heartbeat == 0 and status.strategies == {}
    assert main(["status", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "ended"
