"""The registry: trials cannot be forgotten, renamed or edited."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from kalshilab.clock import SimClock
from kalshilab.edge.canonical_json import hash_of
from kalshilab.edge.prereg.registry import Hypothesis, Registry, Trial
from kalshilab.errors import RegistryError

IDEA = Hypothesis(
    "RLM_NO", "rlm", "Late YES money overpays.", "a researcher", {"signal": "rlm", "yes_threshold": 0.7}
)


def opened(path: Path | None) -> Registry:
    return Registry(path, clock=SimClock(1_000_000))


@pytest.fixture(params=["memory", "file"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    return opened(None if request.param == "memory" else tmp_path / "registry.jsonl")


def test_a_hypothesis_is_identified_by_its_specification(registry: Registry) -> None:
    prereg = registry.register(IDEA)
    assert prereg == IDEA.prereg_hash == hash_of({"yes_threshold": 0.1 + 0.6, "signal": "rlm"})
    assert registry.registered(prereg) and not registry.registered("0" * 64)
    assert registry.hypothesis(prereg) == IDEA
    assert registry.hypotheses() == {prereg: IDEA}
    assert registry.registered_at(prereg) == 1_000_000
    assert registry.register(IDEA) == prereg and len(registry) == 1


def test_trials_are_distinct_points_of_distinct_specifications_on_distinct_data(registry: Registry) -> None:
    prereg = registry.register(IDEA)
    assert registry.trials("rlm") == 0
    registry.evaluated(prereg, {"n": 25}, "d1", 0.01, 1.0, 300)
    registry.evaluated(prereg, {"n": 25.0}, "d1", 0.02, 1.1, 300)  # The same point again.
    assert registry.trials("rlm") == 1
    registry.evaluated(prereg, {"n": 30}, "d1", None, None, None)  # A failure counts.
    registry.evaluated(prereg, {"n": 30}, "d2", float("nan"), 0.3, float("inf"))
    assert registry.trials("rlm") == 3
    other = registry.register(
        Hypothesis("RLM_YES", "rlm", "The mirror.", "b", {"signal": "rlm", "side": "yes"})
    )
    registry.evaluated(other, {"n": 25}, "d1", 0.5, 0.0, 10, notebook="rlm.ipynb", user="b")
    assert registry.trials("rlm") == 4 and registry.trials("other") == 0
    last = registry.evaluations(other)[0]
    assert (last.notebook, last.user, last.trial) == ("rlm.ipynb", "b", Trial({"n": 25}, 0.5, 0.0, 10.0))
    assert [e.trial.p for e in registry.evaluations(prereg)] == [0.01, 0.02, None, None]


def test_each_cell_of_a_grid_counts_as_a_trial(registry: Registry) -> None:
    prereg = registry.register(IDEA)
    registry.evaluated_all(
        prereg, (Trial({"n": n, "d": d}, 0.5, 0.0, 50) for n in range(6) for d in range(6)), "data"
    )
    assert registry.trials("rlm") == 36


def test_a_new_name_does_not_reset_the_trials(registry: Registry) -> None:
    registry.register(IDEA)
    with pytest.raises(RegistryError, match="registered as RLM_NO in family rlm"):
        registry.register(Hypothesis("NEW", "fresh", IDEA.mechanism, "me", IDEA.spec))
    with pytest.raises(RegistryError, match="belongs to family rlm"):
        registry.register(Hypothesis("RLM_NO", "fresh", "Another.", "me", {"signal": "x"}))
    registry.register(
        Hypothesis("RLM_NO", "rlm", "A revision.", "me", {"signal": "rlm", "yes_threshold": 0.8})
    )
    assert len(registry.hypotheses()) == 2 and len(registry) == 2


@pytest.mark.parametrize("field", ["id", "family", "mechanism", "author"])
def test_empty_fields_are_refused(registry: Registry, field: str) -> None:
    fields = {"id": "A", "family": "f", "mechanism": "m", "author": "a", field: "  "}
    with pytest.raises(RegistryError, match=f"{field} must not be empty"):
        registry.register(Hypothesis(**fields, spec={}))
    assert len(registry) == 0


def test_unregistered_hypotheses_and_invalid_values_are_refused(registry: Registry) -> None:
    for call in (
        lambda: registry.evaluated("f" * 64, {}, "d", 0.1, 1.0, 100),
        lambda: registry.hypothesis("f" * 64),
        lambda: registry.registered_at("f" * 64),
        lambda: registry.registered_first("f" * 64, "d"),
    ):
        with pytest.raises(RegistryError, match="must name a registered hypothesis, got ffffffffffff…"):
            call()
    prereg = registry.register(IDEA)
    with pytest.raises(RegistryError, match=r"p must be a probability from 0 to 1, got 1.5"):
        registry.evaluated(prereg, {}, "d", 1.5, 1.0, 100)
    with pytest.raises(RegistryError, match="must be text, numbers, dates or lists of them"):
        registry.evaluated(prereg, {"f": print}, "d", 0.5, 1.0, 100)
    assert len(registry) == 1


def test_only_an_untuned_hypothesis_registered_first_may_use_the_whole_sample(registry: Registry) -> None:
    first = registry.register(IDEA)
    assert registry.registered_first(first, "d1")
    registry.evaluated(first, {"n": 25}, "d1", 0.01, 1.0, 300)
    assert registry.registered_first(first, "d1")
    late = registry.register(Hypothesis("LATE", "rlm", "Seen in the data.", "a", {"signal": "late"}))
    assert not registry.registered_first(late, "d1") and registry.registered_first(late, "d2")
    registry.evaluated(first, {"n": 30}, "d1", 0.01, 1.0, 300)
    assert not registry.registered_first(first, "d1"), "two points are a search"
    apart = registry.register(Hypothesis("APART", "other", "Elsewhere.", "a", {"signal": "apart"}))
    assert registry.registered_first(apart, "d1")


def test_the_board_adjusts_within_and_across_hypotheses(registry: Registry) -> None:
    one = registry.register(IDEA)
    two = registry.register(Hypothesis("FAV", "fav", "Long shots are dear.", "a", {"signal": "fav"}))
    registry.register(Hypothesis("IDLE", "fav", "Not judged.", "a", {"signal": "idle"}))
    for n, p in ((1, 0.004), (2, 0.3), (3, None)):
        registry.evaluated(one, {"n": n}, "d", p, 1.5, 210)
    registry.evaluated(two, {}, "d", 0.01, 0.6, 400)
    registry.evaluated(two, {}, "d", 0.04, 0.5, 400)  # Tested twice: the larger p-value counts.
    board = registry.board()
    assert board["id"].to_list() == ["RLM_NO", "FAV", "IDLE"]
    assert board["trials"].to_list() == [3, 1, 0] and board["family_trials"].to_list() == [3, 1, 1]
    assert board["p"].to_list() == pytest.approx([0.012, 0.04, None])
    assert board["holm"].to_list() == pytest.approx([0.024, 0.04, None])
    assert board["bh"].to_list() == pytest.approx([0.024, 0.04, None])
    assert board["by"].to_list() == pytest.approx([0.036, 0.06, None])
    assert board["explore"].to_list() == [True, True, None]
    assert board["edge"].to_list() == [1.5, 0.5, None]
    assert board["registered"][0] == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)


def test_a_sample_that_is_too_small_has_an_edge_but_no_p_value(registry: Registry) -> None:
    one = registry.register(IDEA)
    for edge in (2.5, 9.0):
        registry.evaluated(one, {"edge": edge}, "d", None, edge, 40)
    board = registry.board()
    assert board["p"].to_list() == board["holm"].to_list() == [None]
    assert board["edge"].to_list() == [2.5] and board["n_eff"].to_list() == [40], "the first, not the best"


def test_an_empty_registry_has_an_empty_board(registry: Registry) -> None:
    assert registry.board().is_empty() and "holm" in registry.board().columns
    assert registry.trials("x") == 0 and len(registry) == 0


def test_a_lockbox_refuses_other_kinds_of_records(registry: Registry) -> None:
    with pytest.raises(RegistryError, match="one of boundary, look, result, got"):
        registry.box("rlm", lambda before: {"kind": "guess"})
    assert len(registry) == 0
