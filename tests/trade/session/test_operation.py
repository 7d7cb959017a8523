"""Operation of a session: its log, its metrics, and its provenance in the report and the journal."""

from __future__ import annotations

from pathlib import Path

from kalshilab.config.settings import Settings
from kalshilab.trade.orders.journal import Journal
from kalshilab.trade.session.report import Report
from kalshilab.trade.session.session import PaperSession
from kalshilab.trade.status import read_status


async def test_a_run_leaves_log_metrics_and_provenance(tmp_path: Path) -> None:
    settings = Settings(
        env={"RLM_CONTRACTS": "7"}, env_file=None, out=str(tmp_path), categories="all", max_markets=40, metrics=True,
        log_level="DEBUG", key_id="my-own-key-id",
    )  # fmt: skip
    async with PaperSession(settings) as session:
        report = await session.run()
    folder = session.run_dir
    log = (folder / "session.log").read_text()
    assert "INFO strategy rlm_no" in log and "KALSHI_DATA_SYNC -> READY" in log
    assert log.count("DEBUG intent ") == report.counts["orders"] + report.counts["rejected"]
    metrics = (folder / "metrics.prom").read_text()
    assert (
        f'kalshilab_orders_total{{run="{folder.name}",venue="embedded"}} {report.counts["orders"]}' in metrics
    )
    assert f'kalshilab_finished{{run="{folder.name}",venue="embedded"}} 1' in metrics
    status = read_status(folder / "status.json")
    assert status is not None and status.finished and status.error == "" and status.frame_age_s is not None
    assert report.provenance["settings"]["contracts"]["origin"] == "environment variable RLM_CONTRACTS"
    assert Report.load(folder).provenance == report.provenance
    with Journal.open(folder / "journal.sqlite") as journal:
        start = next(note for note in journal.values("note") if note["what"] == "start")
    assert start["provenance"] == report.provenance
    for file in folder.iterdir():
        assert file.is_dir() or b"my-own-key-id" not in file.read_bytes(), file.name
