"""The parameter map: cells at their parameters, stars of a tested family, and small samples hatched."""

from __future__ import annotations

from itertools import product

import numpy as np
import polars as pl
import pytest

from kalshilab.errors import EdgeError
from kalshilab.notebook.research.heatmap import CELLS, FEW, heatmap


def grid(*sizes: int, n: int = 500) -> pl.DataFrame:
    """Return a cell for each combination of parameters a, b, c, …, with an edge that identifies the cell."""
    cells = list(product(*(range(1, size + 1) for size in sizes)))
    columns = {name: [cell[k] for cell in cells] for k, name in enumerate("abcdef"[: len(sizes)])}
    edge = [float(sum(10**k * v for k, v in enumerate(cell))) for cell in cells]
    return pl.DataFrame({**columns, "n": [n] * len(cells), "edge": edge, "p": [0.5] * len(cells)})


def test_each_cell_is_drawn_at_its_parameters() -> None:
    figure, _ = heatmap(grid(3, 2))
    [cells] = figure.data
    # a has more values and spans the x axis; b spans the y axis.
    assert np.allclose(cells.z, [[11, 12, 13], [21, 22, 23]])
    assert figure.layout.xaxis.title.text == "a" and figure.layout.yaxis.title.text == "b"
    assert figure.layout.xaxis.ticktext == ("1", "2", "3")
    assert cells.text[1][2] == "+23.0" and figure.layout.title.text == "Net edge by parameters"
    assert cells.zmin == -cells.zmax == -23


def test_a_constant_parameter_is_not_drawn() -> None:
    frame = grid(3, 2).with_columns(tail=pl.lit(1.5)).select("tail", "a", "b", "n", "edge", "p")
    assert np.allclose(heatmap(frame)[0].data[0].z, [[11, 12, 13], [21, 22, 23]])
    [row] = heatmap(grid(4))[0].data
    assert np.allclose(row.z, [[1, 2, 3, 4]])
    [one] = heatmap(grid(1, 1))[0].data
    assert np.shape(one.z) == (1, 1)


def test_a_third_parameter_gives_one_map_per_value() -> None:
    figure, _ = heatmap(grid(4, 3, 2))
    assert [a.text for a in figure.layout.annotations] == ["c 1", "c 2"]
    first, second = figure.data
    assert np.allclose(np.array(second.z) - np.array(first.z), 100)
    assert (first.xaxis, second.xaxis) == ("x", "x2") and second.showscale and not first.showscale
    # All maps share one colour scale.
    assert first.zmax == second.zmax == 234


@pytest.mark.parametrize("sizes", [(4, 3, 2, 2), (5, 5, 6), (20, 20, 2), (30, 2)])
def test_maps_do_not_overlap_and_the_title_counts_omitted_cells(sizes: tuple[int, ...]) -> None:
    frame = grid(*sizes)
    figure, back = heatmap(frame)
    assert back.equals(frame)
    drawn = sum(np.size(t.z) for t in figure.data if t.type == "heatmap")
    assert drawn <= CELLS and (
        f"({drawn:,} of {frame.height:,} cells drawn)" in figure.layout.title.text
    ) == (drawn < frame.height)
    axes = figure.to_plotly_json()["layout"]
    numbers = [k.removeprefix("xaxis") for k in axes if k.startswith("xaxis")]
    boxes = [(axes[f"xaxis{i}"]["domain"], axes[f"yaxis{i}"]["domain"]) for i in numbers]
    for k, (x, y) in enumerate(boxes):
        assert 0 <= x[0] < x[1] <= 1 and 0 <= y[0] < y[1] <= 1
        for other_x, other_y in boxes[:k]:
            assert x[0] >= other_x[1] or x[1] <= other_x[0] or y[0] >= other_y[1] or y[1] <= other_y[0]


def test_stars_come_from_the_family_test_and_small_samples_are_hatched() -> None:
    frame = grid(3, 2).with_columns(
        star=pl.col("edge") == 23, n=pl.when(pl.col("edge") < 13).then(FEW - 1).otherwise(FEW)
    )
    figure, _ = heatmap(frame)
    cells, hatched = figure.data
    assert cells.text[1][2] == "+23.0★" and cells.text[0][2] == "+13.0" and "★" in figure.layout.title.text
    assert sorted(zip(hatched.x, hatched.base, strict=True)) == [(0, -0.5), (1, -0.5)]
    assert hatched.marker.pattern.shape == "/" and cells.customdata[0][0] == FEW - 1
    text = frame.with_columns(star=pl.when(pl.col("edge") == 23).then(pl.lit("**")))
    assert heatmap(text)[0].data[0].text[1] == ["+21.0", "+22.0", "+23.0**"]


def test_a_missing_cell_and_a_cell_without_edge_are_blank() -> None:
    holes = (
        grid(3, 2).filter(pl.col("edge") != 21).with_columns(edge=pl.when(pl.col("edge") != 12).then("edge"))
    )
    [cells] = heatmap(holes)[0].data
    assert np.isnan(cells.z[1][0]) and np.isnan(cells.z[0][1]) and cells.text[1][0] == cells.text[0][1] == ""


def test_parameters_may_be_text_numbers_or_null() -> None:
    frame = pl.DataFrame(
        {
            "side": ["no", "no", "yes"],
            "at": [0.65, None, 0.7],
            "n": [5, 6, 7],
            "edge": [1.0, 2.0, 3.0],
            "p": [1.0] * 3,
        }
    )
    figure, _ = heatmap(frame)
    assert set(figure.layout.xaxis.ticktext) == {"", "0.65", "0.7"}
    assert sorted(v for row in figure.data[0].z for v in row if not np.isnan(v)) == [1, 2, 3]


def test_a_frame_without_parameters_is_an_error() -> None:
    with pytest.raises(EdgeError, match="frame must have a column for each parameter, got only n, edge, p"):
        heatmap(grid(2).drop("a"))


def test_a_setting_and_its_neighbours_are_one_row_per_parameter() -> None:
    rows = [
        (0.7, 5, "a"),
        (0.65, 5, "a"),
        (0.75, 5, "a"),
        (0.7, 3, "a"),
        (0.7, 7, "a"),
        (0.7, 9, "a"),
        (0.7, 5, "b"),
    ]
    frame = pl.DataFrame(rows, ["share", "trades", "side"], orient="row").with_columns(
        n=pl.lit(300), edge=pl.int_range(pl.len()).cast(pl.Float64), p=pl.lit(0.5), star=pl.lit(False)
    )
    figure, back = heatmap(frame)
    [cells] = figure.data
    nan = np.nan
    assert np.allclose(cells.z, [[1, 0, 2, nan], [3, 0, 4, 5], [nan, 0, 6, nan]], equal_nan=True)
    assert figure.layout.xaxis.ticktext == ("-1", "setting", "+1", "+2")
    assert figure.layout.yaxis.ticktext == ("share", "trades", "side")
    assert cells.text[1][3] == "+5.0<br><i>9</i>" and "drawn" not in figure.layout.title.text
    assert back.equals(frame)
    # With one cell outside the cross it is a grid.
    corner = frame.vstack(frame[:1].with_columns(share=pl.lit(0.65), trades=pl.lit(3, pl.Int64)))
    assert len(heatmap(corner)[0].data) == 2
