"""`textrl bench cost-curves`: every point is measured with what it says, and the picture shows them all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

from textrl_agents.cli import app
from textrl_agents.speed.curves import points as points_module
from textrl_agents.speed.curves.figure import AXES, plot_curves
from textrl_agents.speed.curves.points import Curve, Point, Setting, cost_curves, measure_points
from textrl_agents.speed.random_llama import LlamaSize
from textrl_agents.speed.rooflines.peaks import Peaks
from textrl_env.errors import ConfigError

TINY = LlamaSize(16, 1, 2, 1)
CURVES = (Curve("rows", "tiny", (Setting(TINY, 1, 3), Setting(TINY, 2, 3))),)


def point(curve: str, **changed: Any) -> Point:
    costs = {"rollout": 900.0, "update": 500.0, "rollout_bound": 20.0, "update_bound": 40.0}
    return Point(
        **{"curve": curve, "parameters": 10**6, "rows": 16, "tokens": 16, "dtype": "float32", **costs, **changed}
    )


def test_one_thing_changes_along_a_curve() -> None:
    for curve, field in zip(cost_curves(), ("size", "rows", "tokens"), strict=True):
        values = {name: {getattr(setting, name) for setting in curve.settings} for name in Setting._fields}
        assert len(values.pop(field)) == len(curve.settings) >= 4
        assert {len(found) for found in values.values()} == {1}
        assert curve.name in AXES
    quick, full = cost_curves(quick=True), cost_curves()
    assert [len(curve.settings) for curve in quick] == [2, 2, 2]
    assert [curve.name for curve in quick] == [curve.name for curve in full]


def test_points_are_measured_with_their_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def peaks(shapes: list[tuple[int, int]], *_: Any) -> Peaks:
        sizes.append(len(shapes))
        return Peaks(1e15, 1e12)

    monkeypatch.setattr(points_module, "measure_peaks", peaks)
    told: list[str] = []
    found = measure_points(CURVES, device="cpu", repeats=1, progress=told.append)
    assert [(each.curve, each.rows, each.tokens) for each in found] == [("rows", 1, 3), ("rows", 2, 3)]
    # Embeddings and head, attention with one key head of two, the perceptron, three norms.
    by_hand = 2 * 8192 * 16 + 16 * (16 + 8 + 8 + 16) + 3 * 16 * 42 + 3 * 16
    assert {each.parameters for each in found} == {by_hand}
    assert told == ["rows: width 16, 1 layers, 1 rows, 3 tokens", "rows: width 16, 1 layers, 2 rows, 3 tokens"]
    assert sizes == [8]  # a layer's seven matrices and the head; measured once for both points
    for each in found:
        assert each.rollout > each.rollout_bound > 0
        assert each.update > each.update_bound > 0
    # Here memory bounds a step, and the weights are read once for one row as for two.
    assert 0.5 < found[1].rollout_bound / found[0].rollout_bound < 0.51


def test_wrong_arguments() -> None:
    with pytest.raises(ConfigError, match="repeats must be a whole number >= 1, got 0"):
        measure_points(CURVES, repeats=0)
    with pytest.raises(ConfigError, match="threads must be"):
        measure_points(CURVES, threads=0, device="cpu")


def test_the_picture_shows_every_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *rest, **more: drawn.append(figure) or save(figure, *rest, **more)
    )
    curves = cost_curves()
    points = [
        point(
            curve.name,
            parameters=10**6 * setting.size.width,
            rows=setting.rows,
            tokens=setting.tokens,
            rollout=900.0 * (index + 1),
        )
        for curve in curves
        for index, setting in enumerate(curve.settings)
    ]
    plot_curves(curves, points, tmp_path / "curves.png", title="a machine")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    (figure,) = drawn
    assert len(figure.axes) == 3
    for axes, curve in zip(figure.axes, curves, strict=True):
        assert axes.get_xscale() == axes.get_yscale() == "log"
        assert len(axes.get_lines()) == 4
        assert all(len(line.get_xdata()) == len(curve.settings) for line in axes.get_lines())
        rollout = next(line for line in axes.get_lines() if line.get_label() == "rollout, measured")
        assert list(rollout.get_ydata())[:2] == pytest.approx([9e-4, 18e-4])  # seconds
    assert len(figure.legends) == 1


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def measure(curves: Any, **arguments: Any) -> list[Point]:
        asked.update(arguments)
        return [point(curve.name, rows=1 + index, tokens=8 + index) for curve in curves for index in range(2)]

    monkeypatch.setattr(points_module, "measure_points", measure)
    out = tmp_path / "new" / "curves"
    result = CliRunner().invoke(app, ["bench", "cost-curves", "--out", str(out), "--quick", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == ["cost-curves.json", "cost-curves.png"]
    written = json.loads((out / "cost-curves.json").read_text())
    assert [each["curve"] for each in written["points"]] == [name for name in AXES for _ in range(2)]
    assert "torch" in written["about"]
    assert "900" in result.stdout
    assert (asked["device"], asked["repeats"]) == ("cpu", 3)
    as_json = CliRunner().invoke(app, ["bench", "cost-curves", "--out", str(out), "--device", "cpu", "--json"])
    assert json.loads(as_json.stdout) == written


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(points_module, "measure_points", lambda *_, **__: pytest.fail("it measured"))
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(app, ["bench", "cost-curves", "--out", str(tmp_path / "file")])
    assert result.exit_code == 1
    assert "file" in result.stderr
    for device in ("gpu", "cuda:99"):
        refused = CliRunner().invoke(app, ["bench", "cost-curves", "--out", str(tmp_path / "new"), "--device", device])
        assert refused.exit_code == 2, device
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
