"""`python -m benchmarks.plots`: draw what the results have, as PNG and SVG.

Owns how a plot looks. Runs in an environment of its own, which has matplotlib; must never import the project's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
mpl.rcParams["svg.hashsalt"] = "ducktower"  # the same figures give the same file

import matplotlib.pyplot as plt  # noqa: E402 - after `use`

from benchmarks.figures import plot_file  # noqa: E402

RESULTS = Path(__file__).with_name("results")


def main() -> None:
    """Draw every plot whose points are in the results."""
    plots: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for path in sorted(RESULTS.glob("*.json")):
        for figure in json.loads(path.read_text())["figures"]:
            point = figure.get("point")
            if point:
                lines = plots.setdefault(point["plot"], {})
                lines.setdefault(point["line"], []).append((point["x"], figure["value"]))
    (RESULTS / "plots").mkdir(exist_ok=True)
    for name, lines in plots.items():
        draw(name, lines)


def draw(name: str, lines: dict[str, list[tuple[float, float]]]) -> None:
    """Draw one plot."""
    what, _, along = name.rpartition(": ")
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for line, points in lines.items():
        xs, ys = zip(*sorted(points), strict=True)
        ours = line.startswith("Ducktower")
        axes.plot(xs, ys, marker="o", markersize=4, linewidth=2 if ours else 1.2, label=line)
    axes.set(xscale="log", yscale="log", title=what, xlabel=along, ylabel="a second")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(fontsize=8)
    path = RESULTS / "plots" / plot_file(name)
    metadata: dict[str, Any] = {"Date": None}
    figure.savefig(path.with_suffix(".svg"), metadata=metadata)
    figure.savefig(path.with_suffix(".png"), dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
