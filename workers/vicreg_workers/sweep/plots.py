"""Plots of a sweep, as PNG bytes."""

from __future__ import annotations

import io
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from vicreg_platform.contract.trial import Trial
from vicreg_platform.specs import Choice, Grid, LogUniform, SweepSpec
from vicreg_workers.sweep.ledger import Ledger

DOTS_PER_INCH = 110


def parallel_coordinates(spec: SweepSpec, trials: Sequence[Trial]) -> bytes:
    """Plot a line per trial over the values of its parameters, coloured by its objective.

    Args:
        spec: the sweep's.
        trials: those without a value of the objective are left out.
    """
    shown = [trial for trial in trials if trial.objective is not None]
    shown.sort(key=lambda trial: trial.objective or 0.0, reverse=spec.objective.mode == "min")
    paths = list(spec.space)
    heights, ticks = zip(*(_axis(spec, path, shown) for path in paths), strict=True)
    scores = np.array([trial.objective for trial in shown], dtype=float)
    heights = (*heights, _scaled(scores))
    ticks = (*ticks, _number_ticks(scores))
    figure = Figure(figsize=(1.9 * len(heights) + 1, 4.2))
    axes = figure.add_axes((0.08, 0.2, 0.84, 0.7))
    colours = colormaps["viridis"](_scaled(scores))
    for place, colour in enumerate(colours):
        axes.plot(range(len(heights)), [h[place] for h in heights], color=colour, alpha=0.85)
    for place, marks in enumerate(ticks):
        axes.axvline(place, color="#888888", linewidth=0.8)
        for height, text in marks:
            axes.annotate(
                text, (place, height), xytext=(4, 0), textcoords="offset points", fontsize=7
            )
    axes.set_xticks(range(len(heights)), [*paths, spec.objective.metric], fontsize=8, rotation=12)
    axes.set_yticks([])
    axes.set_ylim(-0.06, 1.06)
    axes.set_xlim(-0.1, len(heights) - 0.6)
    axes.spines[:].set_visible(False)
    axes.set_title(f"{spec.name}: {len(shown)} trials", fontsize=10)
    return _png(figure)


def objective(spec: SweepSpec, ledger: Ledger) -> bytes:
    """Plot every trial's objective by epoch, and the best so far by all epochs trained.

    A curve is the mean of the seeds that have come as far, with their standard deviation.
    """
    figure = Figure(figsize=(9, 3.6))
    curves = figure.add_axes((0.07, 0.15, 0.41, 0.74))
    best = figure.add_axes((0.56, 0.15, 0.41, 0.74))
    leader = max if spec.objective.mode == "max" else min
    trained, steps, leading = 0, [0], [math.nan]
    for trial in ledger:
        entries = ledger.entries(trial.number)
        values: dict[int, list[float]] = defaultdict(list)
        for entry in entries:
            for epoch, value in entry.curve.items():
                values[epoch].append(value)
        epochs = sorted(values)
        means = [fmean(values[epoch]) for epoch in epochs]
        bars = [stdev(values[epoch]) if len(values[epoch]) > 1 else 0.0 for epoch in epochs]
        yerr = bars if len(entries) > 1 else None
        curves.errorbar(epochs, means, yerr, marker="o", markersize=3, capsize=2, alpha=0.8)
        if trial.objective is None:
            continue
        trained += sum(entry.epoch for entry in entries)
        steps.append(trained)
        known = trial.objective
        leading.append(known if math.isnan(leading[-1]) else leader(leading[-1], known))
    curves.set(xlabel="epoch", ylabel=spec.objective.metric, title="trials")
    best.step(steps, leading, where="post", color="#3b6ea5")
    best.set(xlabel="epochs trained, over trials in order", title="best so far")
    for axes in (curves, best):
        axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def _axis(
    spec: SweepSpec, path: str, trials: Sequence[Trial]
) -> tuple[np.ndarray[Any, Any], list[tuple[float, str]]]:
    """The heights of the trials' values, in [0, 1], and the ticks of the axis."""
    values = [trial.parameters[path] for trial in trials]
    distribution = spec.space[path]
    if isinstance(distribution, (Choice, Grid)):
        names = [_text(value) for value in values]
        known = [text for text in map(_text, distribution.values()) if text in names]
        heights = _scaled(np.array([known.index(name) for name in names], dtype=float))
        return heights, [(float(heights[names.index(text)]), text) for text in known]
    numbers = np.array(values, dtype=float)
    logarithmic = isinstance(distribution, LogUniform)
    return _scaled(np.log(numbers) if logarithmic else numbers), _number_ticks(numbers)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _scaled(numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    low, high = numbers.min(), numbers.max()
    scaled: np.ndarray[Any, Any] = (
        (numbers - low) / (high - low) if high > low else numbers * 0 + 0.5
    )
    return scaled


def _number_ticks(numbers: np.ndarray[Any, Any]) -> list[tuple[float, str]]:
    low, high = float(numbers.min()), float(numbers.max())
    if low == high:
        return [(0.5, f"{low:.3g}")]
    return [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")]


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    return buffer.getvalue()
