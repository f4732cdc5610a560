"""The cost model of env runners and learners: its formula by hand, its constants recovered, its measurements real."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray.rllib")

import typer
from typer.testing import CliRunner

from textrl_agents.cli import app
from textrl_agents.speed.scaling import measured as measured_module
from textrl_agents.speed.scaling.cost_model import CostModel, Layout, Seconds
from textrl_agents.speed.scaling.measured import NEEDED, LayoutTimes, Scaling, fit, measure_scaling
from textrl_env.errors import ConfigError

MODEL = CostModel(
    batch=1000,
    minibatches=4,
    sampling=100.0,
    update=200.0,
    token_bytes=50.0,
    weight_bytes=10_000,
    gradient_bytes=20_000,
    bandwidth=5_000.0,
    gradient_bandwidth=40_000.0,
)


@pytest.mark.parametrize(
    ("layout", "wanted"),
    [
        (Layout(0, 0), Seconds(10, 5, 0)),
        (Layout(1, 0), Seconds(10 + 10, 5, 2)),
        (Layout(4, 0), Seconds(2.5 + 10, 5, 8)),
        (Layout(0, 1), Seconds(10, 5 + 10, 0)),
        (Layout(1, 2), Seconds(10 + 10, 2.5 + 10 + 4 * 20_000 / 40_000, 2)),
        (Layout(1, 4), Seconds(10 + 10, 1.25 + 10 + 4 * 1.5 * 20_000 / 40_000, 2)),
    ],
    ids=str,
)
def test_formula(layout: Layout, wanted: Seconds) -> None:
    assert MODEL.seconds(layout) == pytest.approx(wanted)
    assert MODEL.speed(layout) == pytest.approx(1000 / sum(wanted))


def test_saturation() -> None:
    """By hand without costs of sending: speed ~ 1 / (10 / R + 5); nine tenths of its limit at 10 / R = 5 / 9."""
    free = MODEL.over_network(1e12)
    assert free.saturation(1) == 18
    # Where weights cost something there is a best number, and more are slower.
    costly = replace(free, bandwidth=1e6, weight_bytes=1_000_000)
    assert costly.speed(Layout(50, 1)) < costly.speed(Layout(3, 1))
    assert costly.saturation(1) < 4


def times_of(model: CostModel, layout: Layout) -> LayoutTimes:
    return LayoutTimes(
        layout,
        model.seconds(layout),
        model.batch,
        model.token_bytes,
        model.weight_bytes,
        model.gradient_bytes,
        model.minibatches,
    )


def test_the_constants_are_recovered() -> None:
    recovered = fit([times_of(MODEL, layout) for layout in NEEDED], MODEL.bandwidth)
    assert vars(recovered) == pytest.approx(vars(MODEL))


def test_rows_and_tokens_are_shared_out() -> None:
    with pytest.raises(ConfigError, match="8 rows cannot be shared out among 3 env runners"):
        measure_scaling({"task": "exact"}, [Layout(3, 0)], rows=8)
    with pytest.raises(ConfigError, match="1 x 1 tokens are fewer than 2 learners: raise rows or steps"):
        measure_scaling({"task": "exact"}, rows=1, steps=1)


def test_settings_that_one_layout_cannot_have_are_told_before_any_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """32 tokens of each of two learners are less than a minibatch of 48; in one process they would do."""
    monkeypatch.setattr(measured_module, "_measure_layout", lambda *_: pytest.fail("a layout has run"))
    with pytest.raises(ConfigError, match="minibatch_size 48 is more than the train_batch_size_per_learner of 32"):
        measure_scaling({"task": "exact", "device": "cpu"}, rows=8, steps=8, settings={"minibatch_size": 48})


@pytest.mark.parametrize("layouts", ["2", "2x", "x2", "-1x2", "2x2,", "2*2"])
def test_wrong_layouts(layouts: str) -> None:
    result = CliRunner().invoke(app, ["bench", "scaling", "--layouts", layouts])
    assert result.exit_code == 2
    assert "env runners x learners" in result.output


def test_what_the_command_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model beside what was measured, and a projection over a slower network."""
    measured = [times_of(MODEL, layout) for layout in (*NEEDED, Layout(2, 2))]
    monkeypatch.setattr(measured_module, "measure_scaling", lambda *arguments, **settings: Scaling(measured, MODEL))
    result = CliRunner().invoke(app, ["bench", "scaling", "--network", "0.001", "--json"])
    found = json.loads(result.stdout)
    assert [each["model"] for each in found["measured"]] == [each["tokens_per_second"] for each in found["measured"]]
    assert found["measured"][3]["layout"] == {"runners": 2, "learners": 2}
    slow = MODEL.over_network(1e-3 * 1e9 / 8)
    assert {"runners": 4, "learners": 2, "tokens_per_second": slow.speed(Layout(4, 2))} in found["projected"]
    table = CliRunner().invoke(app, ["bench", "scaling"], env={"COLUMNS": "120"}).output
    assert "2 x 2" in table
    assert "an env runner samples 100 tokens/s, a learner trains on 200" in " ".join(table.split())


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_measured() -> None:
    """One env runner and two learners for real; the tokens are those asked for, and each step took time."""
    shares = {"num_cpus_per_env_runner": 0.25, "num_cpus_per_learner": 0.25, "num_cpus_for_main_process": 0.25}
    env = {"task": "exact", "device": "cpu"}
    found = measure_scaling(env, rows=8, steps=8, repeats=1, settings=shares)
    assert [each.layout for each in found.measured] == list(NEEDED)
    for each in found.measured:
        assert 64 <= each.tokens <= 64 + 8
        assert each.seconds.sampling > 0
        assert each.seconds.update > 0
        assert 50 < each.token_bytes < 2000
    assert found.model.gradient_bytes > 0
    assert found.model.bandwidth > 1e6


PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"


def test_the_pages_commands_parse() -> None:
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = [re.sub(r"\s#.*", "", line) for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("textrl ")]
    assert len(commands) == 4
    for words in commands:
        command: Any = typer.main.get_command(app)
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        command.make_context(command.name, words)  # raises where an option is not known


def test_the_pages_example_is_what_the_formula_gives() -> None:
    page = PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, names)
    rows = re.findall(r"^\| (\d) \| ([\d, |]+) \| (\d+) runners \|$", page, flags=re.MULTILINE)
    shown = {int(learners): [int(cell.replace(",", "")) for cell in cells.split("|")] for learners, cells, _ in rows}
    *lines, ends = printed.getvalue().splitlines()
    assert {int(line[0]): json.loads(line[2:]) for line in lines} == shown
    assert json.loads(ends.partition(":")[2]) == [int(end) for *_, end in rows]
    adapter = names["adapter"]
    whole = replace(adapter, weight_bytes=538_000_000, gradient_bytes=538_000_000)
    assert max(whole.speed(Layout(r, k)) for r in range(1, 65) for k in range(1, 9)) == whole.speed(Layout(1, 1))
    best = max(range(1, 65), key=lambda runners: adapter.speed(Layout(runners, 1)))
    rule = math.sqrt(adapter.batch * adapter.bandwidth / (adapter.sampling * adapter.weight_bytes))
    assert best == pytest.approx(rule, abs=0.5)
    assert adapter.bandwidth / adapter.token_bytes > 5e6
