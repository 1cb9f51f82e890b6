"""The charts of the docs."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from tests.benchmarks.charts import Chart, Line, drawn

SVG = "{http://www.w3.org/2000/svg}"
JOBS = Chart(
    title="Jobs & hosts",
    amount="jobs",
    cost="ms",
    lines=(
        Line("SQLite", ((1, 2.0), (100, 2.0), (10_000, 2.1))),
        Line("Redis", ((1, 3.0), (100, 1.0), (10_000, 2.1))),
    ),
)
ROWS = Chart(title="Rows", amount="rows", cost="µs", lines=(Line("tqdm", ((10, 20.0), (1000, 0.2))),), is_logarithmic=True)  # fmt: skip


def test_each_chart_has_its_lines_their_names_and_both_axes() -> None:
    root = ET.fromstring(drawn([JOBS, ROWS], "Costs"))
    charts = root.findall(f"{SVG}g")
    texts = [[text.text for text in chart.findall(f"{SVG}text")] for chart in charts]
    assert {"Jobs & hosts", "jobs", "ms", "SQLite", "Redis", "0", "1", "2", "3", "10 k"} <= set(texts[0])
    assert {"Rows", "rows", "µs", "tqdm", "0.1", "1", "10", "100", "1,000"} <= set(texts[1])
    lines = [[path for path in chart.findall(f"{SVG}path") if path.get("fill") == "none"] for chart in charts]
    assert [len(each) for each in lines] == [2, 1]


def test_a_higher_cost_is_drawn_higher_and_labels_do_not_overlap() -> None:
    root = ET.fromstring(drawn([JOBS], "Costs"))
    (chart,) = root.findall(f"{SVG}g")
    redis = [path.get("d", "") for path in chart.findall(f"{SVG}path") if path.get("fill") == "none"][1]
    heights = [float(point.split()[1]) for point in redis.removeprefix("M").split("L")]
    assert heights[0] < heights[2] < heights[1]
    labels = [float(text.get("y", "")) for text in chart.findall(f"{SVG}text") if text.text in {"SQLite", "Redis"}]
    assert abs(labels[0] - labels[1]) >= 14
