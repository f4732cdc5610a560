"""What a benchmark's folder gets at its end: report.md, report.html with the figure, and results.json."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from textrl_agents.benchmark.finetune.figure import LABELS, draw_figure
from textrl_agents.benchmark.finetune.findings import NEAR, Elsewhere, Findings
from textrl_agents.benchmark.finetune.jobs import transferred
from textrl_agents.reports.blocks import (
    NO_VALUE,
    Block,
    PictureBlock,
    Section,
    TableBlock,
    TextBlock,
    mean_text,
    number_text,
)
from textrl_agents.reports.report_files import write_report_files
from textrl_agents.reports.statistics import IntervalEstimate
from textrl_agents.runs.atomic import write_atomically
from textrl_env.finetune.schedules import SCHEDULES

FIGURE, RESULTS = "finetune.png", "results.json"
TITLE = "Agents that steer fine-tuning"


def write_report(findings: Findings, folder: Path) -> tuple[Path, Path]:
    """Write all files into the folder; return the paths of report.md and report.html."""
    write_atomically(folder / RESULTS, json.dumps(findings.to_json(), indent=1, allow_nan=False) + "\n")
    return write_report_files(folder, TITLE, sections(findings))


def conclusions(findings: Findings) -> list[str]:
    """What was found, in sentences; also that nothing was found."""
    data = findings.plan.data[0]
    constant = findings.baseline(data, "constant")
    lines = []
    for agent in findings.tables:
        learned = findings.of(agent, data)
        over = learned.over(constant)
        near = "within" if learned.share.value >= NEAR else "not within"
        above = over.interval is not None and over.interval[0] > 0
        lines.append(
            f"{LABELS[agent]}: {mean_text(learned.share, 3)} of the best schedule's gain, {near} 5% of it; "
            f"{mean_text(over, 3)} above the best constant rate's {number_text(constant, 3)}, "
            f"{'beyond' if above else 'not beyond'} its interval."
        )
    for each in findings.elsewhere:
        order = f"{each.data} in other orders" if each.data == data else each.data
        lines.append(f"Learned on {data}, played on {order}: {_verdict(each)}.")
    return lines


def agent_rows(findings: Findings) -> list[tuple[str, ...]]:
    """A row for each agent and each fixed schedule on the first data set, the best first: `AGENT_COLUMNS`."""
    data = findings.plan.data[0]
    constant = findings.baseline(data, "constant")
    rows: list[tuple[float, tuple[str, ...]]] = []
    for each in findings.learned:
        if each.data == data:
            first = f"{each.first_near:,}" if each.first_near is not None else NO_VALUE
            near = f"{int((each.shares >= NEAR).sum())}/{len(each.shares)}"
            cells = (mean_text(each.share, 3), mean_text(each.over(constant), 3), near, first)
            rows.append((each.share.value, (LABELS[each.agent], *cells)))
    for name in SCHEDULES:
        share = findings.baseline(data, name)
        peak = findings.trees[data].best_baseline(name)[0]
        label = f"{name}, best of {len(findings.trees[data].baselines[name][0])} peaks ({peak:.2g})"
        rows.append((share, (label, number_text(share, 3), number_text(share - constant, 3), NO_VALUE, NO_VALUE)))
    return [row for _, row in sorted(rows, key=lambda pair: -pair[0])]


AGENT_COLUMNS = ("agent or schedule", "share of the best", "above constant", "seeds near", "near from")


def sections(findings: Findings) -> list[Section]:
    """The report."""
    plan, data = findings.plan, findings.plan.data[0]
    tree = findings.trees[data]
    best = tree.best()
    total = sum(map(len, tree.levels[1:]))
    rates = ", ".join(f"{rate:.2g}" for rate in tree.rates(best.actions))
    learn: list[Block] = [
        TextBlock(conclusions(findings), bullets=True),
        PictureBlock(FIGURE, draw_figure(findings), "Learning curves and learning rates", "Left: what agents that have "
            "trained so many segments play without exploring. Right: the learning rates."),
        TableBlock(AGENT_COLUMNS, agent_rows(findings), "Share of the best schedule's gain after "
            f"{plan.segments:,} segments, mean over {plan.seeds} seeds ± half of the 95% interval (Student's t); above "
            "constant: less the best constant rate's share; seeds near: of those, how many reach 95%; near from: the "
            "segments after which the mean stays above 95%."),
        TextBlock([
            f"The gain is the fall of the log validation loss. On {data} it falls from "
            f"{tree.measurement(0, 0).validation_loss:.3f} nats a token. The best of {len(tree.levels[-1]):,} "
            f"schedules gains {best.gain:.4f} with the rates {rates}; the run starts at "
            f"{tree.settings['learning_rate']:g}.",
            f"All schedules are known from {total:,} segments, so an agent that needs more has no advantage here over "
            "trying everything; agents replay these segments, which gives what training would give, bit for bit.",
        ]),
    ]  # fmt: skip
    found = [Section(f"Learning on {data}", learn), Section("The schedule on other data", _transfer(findings))]
    if findings.ppo:
        found.append(Section("Tuning PPO", [_ppo(findings)]))
    return found


def _transfer(findings: Findings) -> list[TableBlock]:
    plan = findings.plan
    moved = [
        (LABELS[agent], source, *(mean_text(findings.moved(agent, source, target), 3) for target in plan.data))
        for agent in findings.tables
        for source in plan.data
    ]
    names = ("learned", "constant", "hindsight", "over_constant", "over_hindsight")
    elsewhere = [(each.data, *(mean_text(getattr(each, name), 4) for name in names)) for each in findings.elsewhere]
    columns = ("agent", "learned on", *(f"played on {data}" for data in plan.data))
    known = TableBlock(columns, moved, "Share of the best schedule there, where all are known.")
    return [
        *([known] if moved and len(plan.data) > 1 else []),
        TableBlock(
            ("data", "learned schedule", "constant", "best constant there", "over constant", "over best there"),
            elsewhere,
            f"Gains by training in {plan.orders} other orders of the data. The schedules are those that "
            f"{LABELS[transferred(plan)]} learned on {plan.data[0]}; constant is the rate that was best there, and the "
            "best constant there is chosen in hindsight. Intervals are over orders, differences order by order.",
        ),
    ]


def _ppo(findings: Findings) -> TableBlock:
    rates = findings.ppo[0]["rates"]
    rows = [
        (f"constant {rate:.2g}", mean_text(_estimate([each["constant"][place] for each in findings.ppo]), 3))
        for place, rate in enumerate(rates)
    ]
    tuned = mean_text(_estimate([each["share"] for each in findings.ppo]), 3)
    rows.append((f"Q-learning after {findings.plan.ppo_episodes} episodes", tuned))
    return TableBlock(
        ("learning rate", "share of the optimum"),
        rows,
        f"Stock SB3 PPO on the task exact, {findings.plan.ppo_seeds} seeds; an episode is five segments of three "
        "rollouts.",
    )


def _verdict(each: Elsewhere) -> str:
    over = each.over_constant
    if over.interval is None:
        held = "too few orders for an interval"
    elif over.interval[0] > 0:
        held = "it gains more than the constant rate that was best where it was learned"
    elif over.interval[1] < 0:
        held = "it gains less than the constant rate that was best where it was learned"
    else:
        held = "it cannot be told apart from the constant rate that was best where it was learned"
    return f"{held} ({mean_text(over, 4)})"


def _estimate(values: list[float]) -> IntervalEstimate:
    return IntervalEstimate.of(np.asarray(values, dtype=np.float64).tolist())
