"""The append-only log: concurrent writers, crashes, and edits that are refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalshilab.clock import SimClock
from kalshilab.edge.canonical_json import canonical, hash_of
from kalshilab.edge.prereg.append_log import Ledger
from kalshilab.edge.prereg.registry import Hypothesis, Registry
from kalshilab.errors import RegistryError

IDEA = Hypothesis(
    "RLM_NO", "rlm", "Late YES money overpays.", "a researcher", {"signal": "rlm", "yes_threshold": 0.7}
)


def opened(path: Path | None) -> Registry:
    return Registry(path, clock=SimClock(1_000_000))


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """Return the path of a registry of four lines."""
    path = tmp_path / "registry.jsonl"
    registry = opened(path)
    prereg = registry.register(IDEA)
    for n in (15, 25, 35):
        registry.evaluated(prereg, {"min_trades": n}, "data", 0.2, -0.5, 100)
    return path


def test_the_file_is_created_with_the_first_record_and_can_be_reopened(tmp_path: Path) -> None:
    path = tmp_path / "registry.jsonl"
    registry = opened(path)
    assert registry.trials("rlm") == 0 and not path.exists() and registry.path == path
    prereg = registry.register(IDEA)
    registry.evaluated(prereg, {"n": 1}, "d", 0.5, -1.15, 12.5)
    again = opened(path)
    assert again.hypotheses() == {prereg: IDEA} and again.evaluations() == registry.evaluations()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0]["prev"] == "0" * 64 and lines[1]["prev"] == lines[0]["hash"]
    assert "1 hypotheses, 1 evaluations" in repr(again)


def test_two_registries_of_one_file_share_their_records(tmp_path: Path) -> None:
    one, two = opened(tmp_path / "r.jsonl"), opened(tmp_path / "r.jsonl")
    prereg = one.register(IDEA)
    for n in range(5):
        two.evaluated(prereg, {"n": n}, "d", 0.5, 0.0, 1)
        one.evaluated(prereg, {"n": -n}, "d", 0.5, 0.0, 1)
    assert one.trials("rlm") == two.trials("rlm") == 9
    assert len(opened(tmp_path / "r.jsonl")) == 11


WRITER = """
import sys
from kalshilab.edge.prereg.registry import Hypothesis, Registry
registry = Registry(sys.argv[1])
prereg = registry.register(Hypothesis("H", "f", "m", "a", {"x": 1}))
for n in range(40):
    registry.evaluated(prereg, {"who": sys.argv[2], "n": n}, "d", 0.5, 0.0, 1)
"""


def test_several_processes_write_concurrently(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), who]) for who in "abc"]
    assert [w.wait(60) for w in writers] == [0, 0, 0]
    assert len(opened(path)) == 121 and opened(path).trials("f") == 120


# The deletion of the last line cannot be detected from the file alone.
@pytest.mark.parametrize(
    ("how", "line"),
    [
        (how, line)
        for how in ("digit", "gone", "twice", "swapped", "hash")
        for line in range(4 - (how == "gone"))
    ],
)
def test_an_edited_line_is_refused(filled: Path, how: str, line: int) -> None:
    lines = filled.read_text().splitlines(keepends=True)
    if how == "digit":
        lines[line] = lines[line].replace('"time":1000000', '"time":1000001')
    elif how == "hash":
        own = json.loads(lines[line])["hash"]
        lines[line] = lines[line].replace(own, "f" * 64)
    elif how == "twice":
        lines.insert(line, lines[line])
    elif how == "gone":
        del lines[line]
    else:
        lines[line], lines[line - 1] = lines[line - 1], lines[line]
    filled.write_text("".join(lines))
    with pytest.raises(RegistryError, match=r"registry.jsonl, line \d: it was edited, or earlier lines"):
        opened(filled)


def test_an_edit_is_refused_on_every_call_by_readers_and_writers(filled: Path) -> None:
    registry = opened(filled)
    good = filled.read_bytes()
    filled.write_bytes(good + b'{"kind":"evaluation"}\n')
    for _ in range(2):
        with pytest.raises(RegistryError, match="line 5"):
            registry.trials("rlm")
        with pytest.raises(RegistryError, match="line 5"):
            registry.evaluated(IDEA.prereg_hash, {"n": 9}, "d", 0.5, 0.0, 1)
    filled.write_bytes(good)
    assert registry.trials("rlm") == 3


def test_a_registry_that_was_truncated_or_deleted_is_refused_by_an_open_reader(filled: Path) -> None:
    registry = opened(filled)
    good = filled.read_bytes()
    filled.write_bytes(b"".join(good.splitlines(keepends=True)[:-1]))
    with pytest.raises(RegistryError, match="read here earlier has changed"):
        registry.trials("rlm")
    filled.unlink()
    with pytest.raises(RegistryError, match="the file was deleted"):
        registry.trials("rlm")
    with pytest.raises(RegistryError, match="the file was deleted"):
        registry.register(IDEA)
    assert not filled.exists()


def test_a_crash_at_any_byte_loses_only_the_unacknowledged_record(filled: Path) -> None:
    good = filled.read_bytes()
    start = good[:-1].rindex(b"\n") + 1
    for cut in range(start, len(good), 7):
        filled.write_bytes(good[:cut])
        reader = opened(filled)
        assert reader.trials("rlm") == 2
        writer = opened(filled)
        writer.evaluated(IDEA.prereg_hash, {"n": 99}, "d", 0.5, 0.0, 1)
        assert filled.read_bytes().startswith(good[:cut]), "the file is never rewritten"
        again = opened(filled)
        assert writer.trials("rlm") == reader.trials("rlm") == again.trials("rlm") == 3
        assert again.evaluations()[-1].trial.parameters == {"n": 99}


def test_a_record_without_its_end_of_line_counts(filled: Path) -> None:
    good = filled.read_bytes()
    filled.write_bytes(good[:-1])
    registry = opened(filled)
    registry.evaluated(IDEA.prereg_hash, {"n": 99}, "d", 0.5, 0.0, 1)
    assert filled.read_bytes().startswith(good)
    assert registry.trials("rlm") == opened(filled).trials("rlm") == 4


def test_a_foreign_fragment_at_the_end_is_refused(filled: Path) -> None:
    with filled.open("ab") as file:
        file.write(b"hello")
    with pytest.raises(RegistryError, match=r"line 5: it is incomplete and was not written by this log"):
        opened(filled)


def test_a_registry_continues_after_a_full_disk(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = opened(filled)
    write = os.write

    def short(file: int, data: bytes) -> int:
        write(file, data[:50])
        raise OSError(28, "no space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr(os, "write", short)
        registry.evaluated(IDEA.prereg_hash, {"n": 50}, "d", 0.5, 0.0, 1)
    assert registry.trials("rlm") == 3
    registry.evaluated(IDEA.prereg_hash, {"n": 51}, "d", 0.5, 0.0, 1)
    assert registry.trials("rlm") == opened(filled).trials("rlm") == 4


def test_a_record_of_a_later_version_is_refused(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "r.jsonl", lambda record, line: None)
    ledger.add(lambda: [{"kind": "from_the_future"}])
    with pytest.raises(
        RegistryError, match="unknown kind 'from_the_future' of record, possibly of a later version"
    ):
        opened(tmp_path / "r.jsonl")


def test_nothing_is_written_if_the_callback_raises(filled: Path) -> None:
    good, ledger = filled.read_bytes(), Ledger(filled, lambda record, line: None)

    def fails() -> list[dict[str, object]]:
        assert ledger.lines == 4, "a writer has read all earlier records"
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        ledger.add(fails)
    ledger.add(list)
    assert filled.read_bytes() == good


# ---------------------------------------------------------------- canonical JSON

VALUES = st.recursive(
    st.none() | st.booleans() | st.text(st.characters(exclude_categories=["Cs"])) | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(VALUES)
def test_canonical_text_is_json_and_a_fixed_point(value: object) -> None:
    text = canonical(value)
    assert canonical(json.loads(text)) == text


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers(), min_size=2))
def test_the_hash_does_not_depend_on_the_order_of_keys(value: dict[str, int]) -> None:
    assert hash_of(value) == hash_of(dict(reversed(value.items())))


def test_numbers_are_written_by_value_and_not_by_type() -> None:
    assert canonical([1.0, np.float64(1), np.int32(1), True]) == "[1,1,1,true]"
    assert canonical(0.1 + 0.2) == canonical(0.3) == "0.3"
    assert canonical([-0.0, 1e300, 1e-300]) == "[0,1e+300,1e-300]"
    assert (
        canonical({"b": {"y", "x"}, "a": np.arange(2), "t": range(2)})
        == '{"a":[0,1],"b":["x","y"],"t":[0,1]}'
    )
    assert (
        canonical([date(2025, 1, 2), datetime(2025, 1, 2, tzinfo=UTC)])
        == '["2025-01-02","2025-01-02T00:00:00+00:00"]'
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1: 2}, b"x", "\ud800", object()])
def test_values_without_a_json_form_are_refused(value: object) -> None:
    with pytest.raises(RegistryError):
        canonical(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_error_for_nan_and_infinity_names_the_remedy(value: float) -> None:
    with pytest.raises(RegistryError, match=f"NaN and infinity cannot be stored, got {value}; pass None"):
        canonical({"p": value})
