"""The report's sections on the results; those on what was run are in `runs`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from textrl_agents.benchmark.report import figures
from textrl_agents.benchmark.report.across_tasks import TaskComparison
from textrl_agents.benchmark.report.runs import machines
from textrl_agents.benchmark.report.summary import Summary
from textrl_agents.benchmark.report.task_tables import COLUMNS, REFERENCE, TaskTable
from textrl_agents.reports.blocks import (
    AGARWAL,
    BEIRAMI,
    Block,
    PictureBlock,
    SampleBlock,
    Section,
    TableBlock,
    TextBlock,
    counted,
    mean_text,
    number_text,
    range_text,
)
from textrl_agents.reports.statistics import MIN_SEEDS
from textrl_env.text.prompt_rows import prompt_text

SAMPLE_PROMPTS = 4  # of each task
SAMPLE_LENGTH = 1_200  # characters of a text that are shown
INTERVALS = (  # what the `±` means
    "Values are means over seeds ± half the width of a 95% interval of the mean (Student's t). It tells how much the "
    "mean could differ with other seeds, not how much single runs differ."
)
_SAMPLE_SCORES = (("score", "score"), ("gold_score", "gold"), ("kl", "KL"))


def findings(summary: Summary) -> list[str]:
    """Say how much of the benchmark is done, a sentence on each task, and one on all tasks if all runs are done."""
    lines = []
    if summary.is_partial:
        lines.append(
            f"{summary.done} of {summary.planned} runs: what follows is of these alone, and nothing is said of all "
            "tasks together. The benchmark goes on with `textrl bench run --out FOLDER`."
        )
    lines += [_finding(table) for table in summary.tasks]
    comparison, ranked = summary.comparison, summary.comparison.ranked
    if len(comparison.scales) > 1 and ranked and comparison.iqm[ranked[0]].interval is not None:
        best = comparison.iqm[ranked[0]]
        line = f"All {len(comparison.scales)} tasks together: {ranked[0]} has the highest interquartile mean of the "
        line += f"normalised scores, {range_text(best, 3)}."
        lines.append(line + _unsettled([label for label in ranked[1:] if best.overlaps(comparison.iqm[label])]))
    return lines


def _finding(table: TaskTable) -> str:
    """Say which algorithm leads on a task, if its runs can tell."""
    key = table.measure
    ranked = [row for row in table.finished if row.name != REFERENCE and key in row.estimates]
    if not ranked:
        return f"{table.label}: no algorithm has a result."
    best, *others = ranked
    value = best.estimates[key]
    zero = next((row.estimates[key] for row in table.finished if row.name == REFERENCE and key in row.estimates), None)
    untouched = f" (the untouched model: {mean_text(zero, 3)})" if zero else ""
    what = {"normalized": "share of the optimum", "objective": "mean objective"}[key]
    if value.interval is None:
        values = [row.estimates[key].value for row in ranked]
        reached = " to ".join(dict.fromkeys(number_text(each, 3) for each in (min(values), max(values))))
        seeds = counted(value.seeds, "seed")
        return f"{table.label}: {what} {reached}{untouched}; {seeds} cannot tell which algorithm is best."
    near = [row.label for row in others if value.overlaps(row.estimates[key])]
    return f"{table.label}: {best.label} has the highest {what}, {mean_text(value, 3)}{untouched}.{_unsettled(near)}"


def _unsettled(near: Sequence[str]) -> str:
    return f" Its interval overlaps with {', '.join(near)}: their order is not settled." if near else ""


def too_few(summary: Summary) -> list[TextBlock]:
    """Warn where results have too few seeds for an interval."""
    few = [
        f"{row.label} on {table.label} ({len(row.lines)})"
        for table in summary.tasks
        for row in table.finished
        if len(row.lines) < MIN_SEEDS
    ]
    if not few:
        return []
    which = "all results" if len(few) == sum(len(table.finished) for table in summary.tasks) else ", ".join(few)
    return [
        TextBlock(
            [
                f"Too few seeds: an interval needs at least {MIN_SEEDS} runs that differ in their seed alone. Fewer "
                f"stand behind {which}: a mean without an interval, whose differences may be chance."
            ]
        )
    ]


def glossary(summary: Summary) -> TableBlock:
    """Explain the columns of the report."""
    shown = {column.key for table in summary.tasks for cost in (False, True) for column in table.columns(cost=cost)}
    rows = [(column.title, column.meaning) for column in COLUMNS if column.key in shown]
    rows.append(("seeds", "runs behind a row; they differ in their random seed alone."))
    return TableBlock(("column", "meaning"), rows, numbers=False)


def task_section(number: int, table: TaskTable, looks: dict[str, figures.Style]) -> Section:
    """Make a task's tables and figures. number: sets the names of its files apart from other tasks'."""
    blocks: list[Block] = []
    if table.finished:
        prompts = f" on {table.prompts}" if table.prompts else ""
        first = next(column.title for column in COLUMNS if column.key == table.measure)
        blocks.append(_results(table, cost=False, caption=f"Results{prompts}, the highest mean {first} first."))
        if table.columns(cost=True):
            blocks.append(_results(table, cost=True, caption="What training took."))
    else:
        blocks.append(TextBlock(["No run finished."]))
    slug = re.sub(r"[^a-z0-9]+", "-", table.label.lower()).strip("-")[:48] or "x"
    name = f"{number}-{slug}.png"
    for kind, png, alt, caption in (
        ("frontier", figures.frontier(table, looks),
         f"Score against KL from the reference on {table.label}, a point for each algorithm; see the table above.",
         "What the KL bought: points high and to the left reach a score near the reference. Bars are 95% intervals "
         "over seeds. A rise in score without one in gold score is the reward model being exploited."),
        ("curves", figures.learning_curves(table, looks),
         f"Score in training against generated tokens on {table.label}, a line for each algorithm.",
         "Score of the responses sampled in training, against the tokens generated so far: the mean over seeds, with a "
         "band from the lowest to the highest. Algorithms that do not train have no curve."),
    ):  # fmt: skip
        if png is not None:
            blocks.append(PictureBlock(f"{kind}-{name}", png, alt, caption))
    return Section(f"Task: {table.label}", blocks)


def _results(table: TaskTable, *, cost: bool, caption: str) -> TableBlock:
    columns = table.columns(cost=cost)
    rows = [
        (row.label, str(len(row.lines)), *[mean_text(row.estimates.get(c.key), c.digits) for c in columns])
        for row in table.finished
    ]
    return TableBlock(("algorithm", "seeds", *[column.title for column in columns]), rows, caption)


def all_tasks(summary: Summary, looks: dict[str, figures.Style]) -> list[Block]:
    """Compare the algorithms over all tasks, and explain the scale; not while runs are missing."""
    if summary.is_partial:
        return [
            TextBlock(
                [
                    f"Only {summary.done} of {summary.planned} runs have a result. Algorithms are compared over all "
                    "tasks when all have one: before, it would hang on which runs came first."
                ]
            )
        ]
    comparison = summary.comparison
    notes = [
        f"{scale.task}: 0 is the reference, 1 the known optimum."
        if scale.known
        else f"{scale.task}: 0 is the reference's mean objective ({scale.zero:.3f}), 1 that of {scale.best} "
        f"({scale.one:.3f}), which is the best of the same runs and no goal from outside: with other algorithms among "
        "them the scale would differ, and a 1 here says nothing of the optimum."
        for scale in comparison.scales
    ]
    notes += [f"{task} is left out: {reason}." for task, reason in comparison.without_scale.items()]
    notes += [f"{label} is left out: {reason}." for label, reason in comparison.left_out.items()]
    scale = TextBlock(["Objectives of different tasks cannot be added up. They are put on one scale first:"])
    blocks: list[Block] = [scale, TextBlock(notes, bullets=True)]
    ranked = comparison.ranked
    if not ranked:
        return [*blocks, TextBlock(["So there is nothing to compare over all tasks."])]
    rows = [
        (label, str(len(comparison.scores[label])), range_text(comparison.iqm[label], 3),
         *[number_text(value, 3) for value in comparison.scores[label].mean(axis=0)])
        for label in ranked
    ]  # fmt: skip
    blocks += [
        TextBlock(
            [
                "The interquartile mean (IQM) is the mean of the middle half of all runs on all tasks, so that a few "
                "very good or very bad runs do not decide. Intervals are 95%, by a bootstrap that draws each task's "
                f"runs anew (Agarwal et al. 2021, {AGARWAL}), and with them the ends of the scales: the reference's "
                "mean and, where no optimum is known, the highest mean of the draw. With fewer than about ten seeds "
                "they are too narrow: with three, they hold the truth in about 85% of cases."
            ]
        ),
        TableBlock(("algorithm", "seeds", "IQM", *[scale.task for scale in comparison.scales]), rows,
              "Normalised scores: the interquartile mean, and each task's mean."),
    ]  # fmt: skip
    for name, png, alt, caption in (
        ("iqm.png", figures.iqm_intervals(comparison, looks), "Interquartile means; see the table above.",
         "Interquartile means of the normalised scores with 95% intervals. 0 is the reference."),
        ("profiles.png", figures.performance_profiles(comparison, looks),
         "Share of runs above each normalised score, a line for each algorithm.",
         "Performance profiles: of an algorithm's runs on all tasks, the share above each score, with pointwise 95% "
         "intervals. A line above another all the way is the better algorithm."),
    ):  # fmt: skip
        if png is not None:
            blocks.append(PictureBlock(name, png, alt, caption))
    if len(ranked) > 1:
        blocks.append(_improvement(comparison, ranked))
    return blocks


def _improvement(comparison: TaskComparison, ranked: Sequence[str]) -> TableBlock:
    def cell(x: str, y: str) -> str:
        if x == y:
            return ""
        estimate = comparison.improvement[x, y]
        settled = estimate.interval is not None and not estimate.interval[0] <= 0.5 <= estimate.interval[1]
        return f"{estimate.value:.2f}{'*' if settled else ''}"

    caption = (
        "Probability of improvement: how likely a run of the row's algorithm is above one of the column's, on average "
        "over tasks. 0.5 is a tie; * where the 95% interval leaves 0.5 out."
    )
    return TableBlock(("algorithm", *ranked), [(x, *[cell(x, y) for y in ranked]) for x in ranked], caption)


def samples(table: TaskTable) -> list[SampleBlock]:
    """Show the first prompts, with what each algorithm's first seed answered."""
    answers: dict[tuple[str, int], list[tuple[str, str, str]]] = {}
    for row in table.finished:
        seen: dict[str, int] = {}
        for sample in row.lines[0].get("samples") or []:
            prompt = prompt_text(sample["prompt"])
            seen[prompt] = seen.get(prompt, 0) + 1  # a task may ask the same several times
            found = [(title, sample.get(key)) for key, title in _SAMPLE_SCORES]
            scores = [f"{title} {number_text(value, 2)}" for title, value in found if isinstance(value, (int, float))]
            answer = (row.label, ", ".join(scores), shortened(sample["response"]))
            answers.setdefault((prompt, seen[prompt]), []).append(answer)
    return [SampleBlock(shortened(prompt), given) for (prompt, _), given in list(answers.items())[:SAMPLE_PROMPTS]]


def caveats(summary: Summary) -> list[str]:
    """Say what the numbers do not tell, in any benchmark and in this one."""
    lines = [
        "The score is a proxy. A policy can please the reward model and nobody else; look at the gold score, at "
        "distinct-n and at the samples.",
        "The budget is equal in generated tokens, not in compute: algorithms differ in what they do with a token. See "
        "tokens/s and seconds.",
        "Speed and memory are those of these machines as they were used; runs side by side share their cores.",
        "Settings may be tuned to different degrees; an algorithm's place here is that of the settings listed below.",
        "Runs that failed are left out of means, so an algorithm that often fails can look better than it is.",
        "Intervals are about seeds: the tasks and the model are the same in all runs. All algorithms answer the same "
        "prompts in a seed, and others in another.",
    ]
    same = [
        f"{row.label} on {table.label}"
        for table in summary.tasks
        for row in table.finished
        if len(row.lines) > 1 and len(set(row.values("objective"))) == 1
    ]
    if same:
        lines.append(
            f"Every seed gave the very same result for {', '.join(same)}. An interval of ± 0 says that nothing in the "
            "run depended on the seed, not that the value is exact."
        )
    if any(row.name == "best_of_n" for table in summary.tasks for row in table.finished):
        lines.append(
            f"The KL of best_of_n is the bound log n - (n - 1)/n of Beirami et al. 2024 ({BEIRAMI}), no measurement, "
            "and it is no policy: when it is used it takes n times the tokens and asks the reward, which on verifiable "
            "tasks knows the answer. At that KL hardly anything beats it: of normally distributed scores the best of 4 "
            "is 1.03 standard deviations up, and the optimal policy of the same KL, "
            "sqrt(2 KL), 1.13. Training pays beyond it, where n would have to grow like exp(KL)."
        )
    if len(machines(summary.lines)) > 1:
        lines.append("The runs are from different machines, so their speeds and memory cannot be compared.")
    return lines


def shortened(text: str) -> str:
    """Cut a text to its first `SAMPLE_LENGTH` characters, and say how many are missing."""
    rest = len(text) - SAMPLE_LENGTH
    return text if rest <= 0 else f"{text[:SAMPLE_LENGTH]}… ({counted(rest, 'more character')})"
