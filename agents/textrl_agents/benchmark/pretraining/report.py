"""What a benchmark's folder gets at its end: the figure, results.json and report.md."""

from __future__ import annotations

import json
from pathlib import Path

from textrl_agents.benchmark.pretraining.figure import draw_figure
from textrl_agents.benchmark.pretraining.findings import LOSS_LABELS, Findings
from textrl_agents.benchmark.pretraining.measures import MEASURES
from textrl_agents.benchmark.pretraining.plan import ARMS, MLE, OBJECTIVE_ARMS, RL_ARMS
from textrl_agents.reports.statistics import IntervalEstimate
from textrl_agents.runs.atomic import write_atomically
from textrl_agents.runs.logs import markdown_cell, markdown_row

FIGURE, RESULTS, REPORT = "pretraining.png", "results.json", "report.md"
COLUMNS = ("arm", *MEASURES.values(), "on the frontier of")
SHOWN = (
    "arm",
    *(MEASURES[name] for name in ("score", "gold", "loss", "loss_all", "insults_provoked")),
)  # on a terminal


def write_report(findings: Findings, folder: Path) -> None:
    """Write all three files into the folder."""
    draw_figure(findings, folder / FIGURE)
    write_atomically(folder / RESULTS, json.dumps(findings.to_json(), indent=1, allow_nan=False) + "\n")
    write_atomically(folder / REPORT, markdown(findings))


def table(findings: Findings) -> list[tuple[str, ...]]:
    """A row for each arm, as `COLUMNS` has it; 95% intervals over seeds."""
    frontiers = {label: findings.frontier(loss) for loss, label in LOSS_LABELS.items()}
    return [
        (
            arm,
            *(_shown(findings.estimate(arm, name)) for name in MEASURES),
            ", ".join(label for label, arms in frontiers.items() if arm in arms) or "none",
        )
        for arm in ARMS
    ]


def conclusions(findings: Findings) -> list[str]:
    """What was found of the paper's claims, in sentences; also that something was not found."""
    if findings.estimate(MLE, "score").interval is None:
        return ["Too few seeds for intervals, so nothing is said of which arm is better; take at least 3."]
    lines = []
    for loss, label in LOSS_LABELS.items():
        lines.append(
            f"On the frontier of score and the loss of {label} (no other arm is better in both beyond the intervals of "
            f"the differences): {', '.join(findings.frontier(loss))}."
        )
        beaten = findings.dominated_by("conditional", loss)
        lines.append(
            f"By the loss of {label} conditional training is on it, as Korbak et al. 2023 report."
            if not beaten
            else f"By the loss of {label} conditional training is not on it, unlike in Korbak et al. 2023: better in "
            f"both {'are' if len(beaten) > 1 else 'is'} {', '.join(beaten)}."
        )
    for other in (*(arm for arm in OBJECTIVE_ARMS if arm != "conditional"), *RL_ARMS):
        changes = {name: _change(findings, other, name) for name in ("score", "loss", "loss_all", "insults_provoked")}
        lines.append(
            f"conditional - {other}: score {changes['score']}, loss of clean text {changes['loss']}, of all text "
            f"{changes['loss_all']}, insults when provoked {changes['insults_provoked']}."
        )
    return lines


def markdown(findings: Findings) -> str:
    """The report."""
    plan = findings.plan
    lines = [
        "# Pretraining with preferences",
        "",
        *(f"- {line}" for line in conclusions(findings)),
        "",
        f"![score against validation loss, and insults]({FIGURE})",
        "",
        markdown_row(COLUMNS),
        markdown_row(["---"] * len(COLUMNS)),
        *(markdown_row(row) for row in table(findings)),
        "",
        "## How",
        "",
        f"Each arm is trained on {plan.tokens:,} tokens of {plan.documents:,} documents of the grammar, or, with "
        f"reinforcement learning, on {plan.tokens - plan.rl_tokens:,} of them and on {plan.rl_tokens:,} that it "
        "generates itself (by DPO and expert iteration for more than one pass). The model is a Llama of "
        f"{plan.model['num_hidden_layers']} layers and width {plan.model['hidden_size']}, from random weights. "
        "Sentences are scored by `no_insults`. Reinforcement learning has the reward of `detoxify`, which wants "
        "fluency too, on training prompts.",
        "",
        f"Score and gold are those of `detoxify` on {plan.prompts} held-out prompts, {plan.responses} responses each. "
        f"Provoked are the same prompts behind two insulting remarks. Unprompted are {plan.sampled} documents from "
        f"their beginning on. The losses are of {plan.heldout} documents that nothing was trained on, for the "
        "distribution that is sampled: clean text reviews all topics alike, all text is such as was trained on, where "
        "rude authors mostly review other topics than calm ones. KL is from the arm mle of the same seed. Intervals "
        f"are 95% over {plan.seeds} seeds (Student's t), for this corpus.",
        "",
        "## Samples",
        "",
        markdown_row(["arm", "kind", "text"]),
        markdown_row(["---"] * 3),
    ]
    for arm in ARMS:
        for kind, texts in findings.samples[arm].items():
            lines += [markdown_row([arm, kind, markdown_cell(text)]) for text in texts[:2]]
    return "\n".join(lines) + "\n"


def _shown(estimate: IntervalEstimate) -> str:
    value = f"{round(estimate.value, 3) + 0.0:.3f}"  # which keeps -0.000 away
    if estimate.interval is None:
        return value
    return f"{value} ± {(estimate.interval[1] - estimate.interval[0]) / 2:.3f}"


def _change(findings: Findings, other: str, measure: str) -> str:
    found = findings.difference("conditional", other, measure)
    assert found.interval is not None  # there are enough seeds
    return f"{found.value:+.3f} [{found.interval[0]:+.3f}, {found.interval[1]:+.3f}]"
