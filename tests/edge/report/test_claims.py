"""Claims: published figures, which never appear without their audited values, in the file or elsewhere."""

from __future__ import annotations

import json
import math
import re
import tomllib
from pathlib import Path

import polars as pl
import pytest

from kalshilab.edge.report import claims
from kalshilab.errors import EdgeError
from kalshilab.market.fees import trade_fee

ROOT = Path(__file__).resolve().parents[3]
ALL = claims.load()
IDS = [c.id for c in ALL.claim]
MINUS = "\N{MINUS SIGN}"

GOOD = """
[[claim]]
id = "a"
name = "A"
rule = "r"
claimed = 5.0
entry = "e"
source = "s"
reason = "because"
"""


# The published figures


def test_the_waterfall_of_rlm_has_five_steps() -> None:
    frame = ALL.waterfall("rlm_no")
    assert frame.schema == claims.WATERFALL_SCHEMA
    assert frame["edge"].to_list() == [17.38, 3.02, 1.97, 0.43, -1.15]
    assert frame["n"].to_list() == [1986, 799, 1684, 1684, 1684]
    assert frame.row(2)[2:4] == (0.25, 3.96)
    assert "8 of 19" in frame["note"][4] and "spread" in frame["note"][3]


def test_the_fourth_step_of_rlm_subtracts_the_fee() -> None:
    # One contract at 67.3 cents, in millionths of a dollar; in size nothing is rounded.
    fee = trade_fee(6_730, 100) / 10_000
    steps = ALL.waterfall("rlm_no")["edge"]
    assert fee == pytest.approx(1.54, abs=0.005)
    assert steps[2] - fee == pytest.approx(steps[3], abs=0.005)
    assert ALL.get("rlm_no").audited == steps[3] and ALL.get("rlm_no").audited_excess == steps[4]


@pytest.mark.parametrize("name", [c.id for c in ALL.claim if c.win_rate and c.price])
def test_a_claimed_edge_is_the_win_rate_less_the_price(name: str) -> None:
    claim = ALL.get(name)
    assert claim.win_rate is not None and claim.price is not None
    assert claim.claimed == pytest.approx(claim.win_rate - claim.price, abs=0.1)


def test_the_audited_edge_of_h200_is_its_win_rate_less_its_mean_entry() -> None:
    claim = ALL.get("h200")
    assert claim.win_rate is not None and claim.audited is not None
    mean_entry = claim.claimed + 100 - claim.win_rate
    assert claim.win_rate - mean_entry == pytest.approx(claim.audited, abs=0.005)


def test_the_sweeps_agree_with_each_other_and_with_the_claims() -> None:
    by_threshold = dict(ALL.sweep_of("rlm_threshold").frame().select("at", "claimed").iter_rows())
    cells = {
        (at, trades, drop): claimed
        for at in ("65", "70", "75", "80")
        for trades, drop, claimed in ALL.sweep_of(f"rlm_grid_{at}")
        .frame()
        .select("at", "column", "claimed")
        .iter_rows()
    }
    assert len(cells) == 48
    for at in ("65", "70", "75", "80"):
        assert cells[at, "5", 0.0] == by_threshold[f"{int(at) / 100:g}"]
    for sweep, of in (
        ("rlm_min_trades", lambda at: (at, 0.0)),
        ("rlm_min_drop", lambda at: ("5", float(at))),
    ):
        for at, claimed in ALL.sweep_of(sweep).frame().select("at", "claimed").iter_rows():
            if ("70", *of(at)) in cells:
                assert cells[("70", *of(at))] == pytest.approx(claimed, abs=0.05)
    assert cells["70", "5", 0.0] == ALL.get("rlm_no").claimed
    assert cells["65", "15", 5.0] == ALL.get("rlm_no_optimum").claimed == max(cells.values())
    assert cells["65", "15", 0.0] == ALL.get("rlm_no_default").claimed


def test_the_edge_falls_with_the_threshold_and_grows_with_the_leak() -> None:
    assert ALL.sweep_of("rlm_threshold").frame()["claimed"].is_sorted(descending=True)
    assert ALL.sweep_of("rlm_min_drop").frame()["claimed"].is_sorted()
    tiers = ALL.sweep_of("rlm_drop_tiers_january").frame()
    assert tiers["n"].sum() == ALL.get("rlm_no_january").n
    assert tiers["fair"].is_sorted() and tiers["fair"].null_count() == 0


def test_no_rolling_window_beats_markets_at_similar_prices() -> None:
    frame = ALL.sweep_of("rlm_rolling_window").frame()
    assert frame["excess"].max() == -1.6 and frame["n"].sum() == 4347


# Both figures, wherever a claim is named


@pytest.mark.parametrize("name", IDS)
def test_a_sentence_has_the_claimed_and_the_audited_edge(name: str) -> None:
    claim, text = ALL.get(name), ALL.sentence(name)
    assert f"claimed {claim.claimed:+.2f} c" in text and text.endswith(claim.reason)
    left = ALL.audited(name)
    assert (f"audited {left[0]:+.2f} c {left[1]}" if left else "audited: no value exists") in text
    if left is None and claim.fair is not None:
        assert f"{claim.fair:+.2f} c on fair markets" in text


def test_sentences_state_the_basis_and_the_measure() -> None:
    text = ALL.sentence("rlm_no")
    assert "claimed +17.38 c; audited +0.43 c after the fee, before the spread, -1.15 c against" in text
    assert "(measured for rlm_no)" in ALL.sentence("rlm_no_optimum")
    assert "(win rate above 50 %)" in ALL.sentence("steam")


@pytest.mark.parametrize("name", IDS)
def test_a_waterfall_has_the_claimed_and_the_audited_edge(name: str) -> None:
    frame = ALL.waterfall(name)
    assert frame.schema == claims.WATERFALL_SCHEMA and frame.height >= 2
    assert frame["edge"][0] == ALL.get(name).claimed
    left = ALL.audited(name)
    assert (left[0] if left else None) in frame["edge"].to_list()


def test_the_frame_has_a_row_per_claim_with_both_edges() -> None:
    frame = ALL.frame()
    assert frame["id"].to_list() == IDS and frame["claimed"].null_count() == 0
    assert frame.filter(id="rlm_no_january")["audited"].item() == 0.43
    assert frame.filter(id="whale_fade")["audited"].item() is None
    assert repr(ALL).startswith(f"<Claims: {len(IDS)}, ")


def texts() -> dict[str, str]:
    """Return the texts that readers see, by file: modules, README, journals, and notebooks with their text outputs.

    Tables of numbers are left out, since they can contain a claimed figure by accident.
    """
    found = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for path in (*ROOT.glob("kalshilab/**/*.py"), ROOT / "README.md", *ROOT.glob("research/*.md"))
    }
    for path in ROOT.glob("notebooks/**/*.ipynb"):
        if ".ipynb_checkpoints" in path.parts:
            continue
        parts = []
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            parts.append("".join(cell["source"]))
            for output in cell.get("outputs", ()):
                shown = output.get("data", {})
                texts = ["".join(shown[kind]) for kind in ("text/plain", "text/markdown") if kind in shown]
                parts += [text for text in texts if not text.startswith("┌")]
        found[str(path.relative_to(ROOT))] = "\n".join(parts)
    return {name: text.replace(MINUS, "-") for name, text in found.items()}


def written(figure: float) -> str:
    """Return a pattern of a figure as texts write it, with two decimals or as few as it has."""
    short = f"{abs(figure):g}"
    return rf"(?<![\d.])(?:{re.escape(f'{abs(figure):.2f}')}|{re.escape(short)})(?![\d]|\.\d)"


# Figures with two decimals are distinctive; those with one are searched with their unit.
DISTINCT = [c.id for c in ALL.claim if round(c.claimed * 100) % 10]
WITH_UNIT = ["yes_80_90", "rlm_no_production_january", "s_late_001"]


def alone(text: str, claim: claims.Claim, near: int | None) -> list[str]:
    """Return the places of a claimed figure without its audited value within `near` characters."""
    pattern = written(claim.claimed) + ("" if claim.id in DISTINCT else r" (?:c|cents)\b")
    left = ALL.audited(claim.id)
    other = (
        written(left[0])
        if left
        else "no value|no audited value|untested|not audited|fair markets|nobody has measured"
    )
    if left and left[0] == 0.43:
        other += r"|(?<![\d.])0\.4(?!\d)"
    places = []
    for hit in re.finditer(pattern, text):
        around = text if near is None else text[max(0, hit.start() - near) : hit.end() + near]
        if not re.search(other, around):
            places.append(text[max(0, hit.start() - 60) : hit.end() + 60])
    return places


@pytest.mark.parametrize("name", DISTINCT + WITH_UNIT)
def test_no_text_names_a_claimed_edge_without_its_audited_value(name: str) -> None:
    claim = ALL.get(name)
    for file, text in texts().items():
        places = alone(text, claim, None if file.endswith(".ipynb") else 600)
        assert not places, f"{file} names a claimed edge alone; {ALL.sentence(name)}: {places}"


def test_the_search_finds_a_claimed_edge_without_its_audited_value() -> None:
    rlm, band = ALL.get("rlm_no"), ALL.get("yes_80_90")
    assert alone("RLM earns +17.38 % a trade", rlm, 600)
    assert not alone("claimed +17.38 c, audited +0.43 c", rlm, 600)
    assert alone("claimed +17.38 c" + " " * 700 + "audited +0.43 c", rlm, 600)
    assert not alone("version 117.38 or 17.381", rlm, 600)
    assert alone("it earned +5.1 cents", band, 600) and not alone("+5.1 cents, then -6.2", band, 600)
    seen = texts()
    assert {"README.md", "notebooks/00_start_here.ipynb", "kalshilab/signals/builtin/rlm.py"} <= seen.keys()
    assert "17.38" in seen["README.md"] and "17.38" in seen["kalshilab/signals/builtin/rlm.py"]


# The file


def test_the_file_is_found_in_a_checkout_and_in_an_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert claims.claims_file() == ROOT / "research" / "claims.toml"
    home = tmp_path / "kalshilab" / "edge"
    (home / "report").mkdir(parents=True)
    monkeypatch.setattr(claims, "__file__", str(home / "report" / "claims.py"))
    with pytest.raises(EdgeError, match="install kalshilab again"):
        claims.claims_file()
    (home / "claims.toml").write_text(GOOD)
    assert claims.claims_file() == home / "claims.toml"
    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"][
        "wheel"
    ]
    assert shipped["force-include"]["research/claims.toml"] == "kalshilab/edge/claims.toml"


def test_another_file_can_be_loaded(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    mine = claims.load(path)
    assert mine.get("a").claimed == 5.0 and mine.audited("a") is None
    frame = mine.waterfall("a")
    assert frame["edge"].to_list() == [5.0, None] and frame.schema == claims.WATERFALL_SCHEMA
    assert math.isclose(mine.frame()["claimed"].sum(), 5.0)
    assert mine.sweep == () and isinstance(mine.frame(), pl.DataFrame)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[[claim", "not a valid claims file"),
        (GOOD.replace("claimed", "claims"), "not a valid claims file"),
        (GOOD.replace("5.0", '"five"'), "not a valid claims file"),
        (GOOD + 'colour = "red"', "colour"),
        (GOOD.replace('reason = "because"', ""), "reason"),
        (GOOD + GOOD, "claim ids must be unique, got a twice"),
        (GOOD + "audited = 1.0", "must have a basis"),
        (GOOD + 'like = "b"', "like must lead to another claim, got b"),
        (GOOD + 'like = "a"', "like must lead to another claim, got a"),
        (
            GOOD + '[[sweep]]\nid="s"\nclaim="b"\nover="o"\nat=[1]\nclaimed=[1]\nreason="r"',
            "must be the id of a claim, got b",
        ),
        (GOOD + '[[sweep]]\nid="s"\nclaim="a"\nover="o"\nat=[1,2]\nclaimed=[1]\nreason="r"', "lengths"),
        (
            GOOD + '[[sweep]]\nid="s"\nclaim="a"\nover="o"\nat=[1]\nclaimed=[1]\nn=[1,2]\nreason="r"',
            "lengths",
        ),
        (
            GOOD + '[[sweep]]\nid="s"\nclaim="a"\nover="o"\nat=[1]\ncolumns=[1]\nclaimed=[1]\nreason="r"',
            "lengths",
        ),
    ],
)
def test_an_invalid_file_is_rejected_with_the_reason(text: str, match: str, tmp_path: Path) -> None:
    path = tmp_path / "claims.toml"
    path.write_text(text)
    with pytest.raises(EdgeError, match=match):
        claims.load(path)


def test_unknown_files_and_ids_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="does not exist"):
        claims.load(tmp_path / "none.toml")
    with pytest.raises(EdgeError, match=r"unknown claim 'rlm_yes'; did you mean .*rlm_no"):
        ALL.get("rlm_yes")
    with pytest.raises(EdgeError, match="unknown sweep 'x'; choose from "):
        ALL.sweep_of("x")
