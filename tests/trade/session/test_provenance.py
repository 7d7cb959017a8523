"""The provenance of a run: complete, of plain JSON types, and without a key."""

from __future__ import annotations

import hashlib
import inspect
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from trade.core.reference_exchange import Take

import kalshilab as kl
from kalshilab.config.settings import Settings
from kalshilab.edge.lookahead.strategy import strategy_of
from kalshilab.signals.builtin.rlm import Rlm
from kalshilab.trade.session.plans import planned, planned_of_settings
from kalshilab.trade.session.provenance import changed, provenance_of
from kalshilab.trade.session.report import Report

PEM = "-----BEGIN PRIVATE KEY-----\nMIIEvQ\n-----END PRIVATE KEY-----"


def facts_of(env: dict[str, str] | None = None, **given: object) -> dict[str, Any]:
    """Return the provenance of a run with these settings."""
    settings = Settings(env=env or {}, env_file=None, **given)
    return provenance_of(settings, planned_of_settings(settings))


def test_every_setting_has_value_and_origin() -> None:
    found = facts_of(env={"RLM_CONTRACTS": "7"}, min_trades=9)["settings"]
    assert set(found) == {f.name for f in fields(Settings)}
    assert found["contracts"] == {"value": 7.0, "origin": "environment variable RLM_CONTRACTS"}
    assert found["min_trades"] == {"value": 9, "origin": "argument"}
    assert found["size_tiers"] == {"value": "0.0:1.0,10.0:1.5,20.0:2.0", "origin": "default"}


def test_no_key_is_part_of_it() -> None:
    text = json.dumps(
        facts_of(
            venue="demo", key_id="my-key-id", private_key=PEM, private_key_path="/home/ann/secret/key.pem",
            rest_url="http://ann:hunter2@127.0.0.1:1/trade-api/v2",
        ),
        ensure_ascii=False,
    )  # fmt: skip
    for secret in ("my-key-id", "MIIEvQ", "ann", "hunter2"):
        assert secret not in text
    assert '"…/key.pem"' in text


def test_it_states_module_and_hash_of_strategy_and_signal() -> None:
    strategy = facts_of()["strategies"]["rlm_no"]
    assert (strategy["class"], strategy["module"]) == ("RlmNo", "kalshilab.trade.strategies.strategies")
    signal, file = strategy["signal"], Path(inspect.getfile(Rlm))
    assert (
        signal["identity"] == strategy_of(Rlm(rearm=True)).identity
        and signal["parameters"]["min_trades"] == 25
    )
    assert signal["file"] == str(file)
    assert signal["file_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert signal["source_sha256"] == hashlib.sha256(inspect.getsource(Rlm).encode()).hexdigest()


def test_a_changed_step_of_a_custom_signal_changes_the_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    text = 'import kalshilab as kl\n\n\n@kl.signal(state={"x": int}, buy="no")\ndef step(s, ts, price, size, taker_yes):\n    return s.n > LIMIT\n'
    hashes = []
    for limit in (5, 6):
        (tmp_path / f"mine{limit}.py").write_text(text.replace("LIMIT", str(limit)))
        signal = facts_of(strategy="custom", signal=f"mine{limit}:step")["strategies"]["custom"]["signal"]
        assert signal["module"] == f"mine{limit}" and signal["file"] == str(tmp_path / f"mine{limit}.py")
        hashes.append(signal["source_sha256"])
    assert hashes[0] != hashes[1]


def test_a_strategy_in_plain_python_and_one_without_a_signal_are_recorded() -> None:
    settings = Settings(env={}, env_file=None)
    found = provenance_of(
        settings,
        [*planned([("mine", Take("yes"), kl.trade.core.Budget())], settings), *planned("hold", settings)],
    )
    assert found["strategies"]["mine"]["signal"]["class"] == "EachPrint"
    assert found["strategies"]["hold"]["signal"] is None
    assert json.loads(json.dumps(found)) == found


def test_the_data_of_the_embedded_venue_has_a_hash(tmp_path: Path) -> None:
    sample = facts_of()["data"]
    assert sample["tape"]["path"] == "bundled sample" and len(sample["markets"]["sha256"]) == 64
    file = tmp_path / "trades.parquet"
    file.write_bytes(b"bytes")
    given = facts_of(tape=file, markets=file)["data"]
    assert given["tape"] == {"path": str(file), "sha256": hashlib.sha256(b"bytes").hexdigest()}
    assert facts_of(venue="demo")["data"] is None


def test_versions_are_recorded() -> None:
    found = facts_of()
    assert {"kalshilab", "polars", "numba", "msgspec"} <= found["packages"].keys() and found["python"]


def test_a_later_life_with_other_settings_is_noticed() -> None:
    one, other = facts_of(), facts_of(contracts=7)
    assert changed(one, one) == []
    assert changed(one, other) == ["settings.contracts.origin", "settings.contracts.value"]


def test_a_report_keeps_its_provenance_and_old_reports_are_loaded(tmp_path: Path) -> None:
    settings = Settings(env={}, env_file=None)
    report = kl.backtest("hold", *kl.sample(), settings=settings)
    assert isinstance(report, Report) and report.provenance == {}
    report.provenance = facts_of()
    report.save(tmp_path)  # type: ignore[call-arg]
    assert Report.load(tmp_path).provenance == report.provenance
    facts = json.loads((tmp_path / "report.json").read_text())
    del facts["provenance"]
    (tmp_path / "report.json").write_text(json.dumps(facts))
    assert Report.load(tmp_path).provenance == {}
