"""Several waterfalls in one figure."""

from __future__ import annotations

import polars as pl
import pytest

from kalshilab.edge.report import claims
from kalshilab.errors import EdgeError
from kalshilab.notebook.research.compare import beside

FALL = claims.load().waterfall("rlm_no")


def test_each_step_of_each_world_is_drawn_at_its_edge_with_an_offset() -> None:
    other = FALL[1:].with_columns(pl.col("edge") - 1)
    figure, frame = beside({"fair": FALL, "planted": other})
    assert [trace.name for trace in figure.data] == ["fair", "planted"]
    assert frame.height == 9 and frame["world"].unique().sort().to_list() == ["fair", "planted"]
    first, second = figure.data
    assert list(first.x) == pytest.approx(FALL["edge"].to_list(), abs=1e-4)
    assert [round(y) for y in second.y] == [1, 2, 3, 4] and not set(first.y) & set(second.y)
    assert len(figure.layout.yaxis.ticktext) == 5
    assert len(figure.to_json()) < 20_000


def test_a_step_that_was_not_measured_is_a_gap() -> None:
    figure, _ = beside({"": claims.load().waterfall("whale_fade")})
    measured, missing = figure.data[0].x
    assert measured == pytest.approx(5.79, abs=1e-4) and missing != missing


@pytest.mark.parametrize("frames", [{}, {str(k): FALL for k in range(5)}, {"a": FALL.drop("lower")}])
def test_frames_that_cannot_be_drawn_are_an_error(frames: dict[str, pl.DataFrame]) -> None:
    with pytest.raises(EdgeError, match="beside"):
        beside(frames)
