"""What evaluations look like in a terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from textrl_agents.evaluation.evaluation import Evaluation, paired_difference
from textrl_env.foreign_text import visible
from textrl_env.text.prompt_rows import prompt_text
from textrl_env.trajectory import Trajectory

LABELS = {
    "score": "score",
    "gold_score": "gold score",
    "kl": "KL per response (nats)",
    "penalized_return": "score - kl_coef * KL",
    "length": "tokens",
    "entropy": "entropy per response (nats)",
    "turns": "turns",
    "success": "success",
}


def evaluation_table(evaluation: Evaluation) -> Table:
    """Means with 95% intervals."""
    table = Table(title=_title(evaluation))
    table.add_column("measure")
    table.add_column("value", justify="right")
    for name, statistic in evaluation.statistics.items():
        table.add_row(LABELS[name], str(statistic))
    table.add_row("distinct-1 / distinct-2", f"{evaluation.distinct_1:.3f} / {evaluation.distinct_2:.3f}")
    shares = ", ".join(f"{reason} {share:.0%}" for reason, share in evaluation.finish_reasons.items() if share)
    table.add_row("ends by", shares)
    return table


def comparison_table(before: Evaluation, after: Evaluation) -> Table:
    """Before, after, and their paired difference, with 95% intervals."""
    table = Table(title=_title(after))
    for column in ("measure", "before", "after", "paired difference"):
        table.add_column(column, justify="left" if column == "measure" else "right")
    difference = paired_difference(before, after)
    for name in difference:
        mean, _, half_width, _ = difference[name]
        table.add_row(LABELS[name], str(before[name]), str(after[name]), f"{mean:+.3f} ± {half_width:.3f}")
    table.add_row(
        "distinct-1 / distinct-2",
        f"{before.distinct_1:.3f} / {before.distinct_2:.3f}",
        f"{after.distinct_1:.3f} / {after.distinct_2:.3f}",
        "",
    )
    return table


def sample_table(before: Evaluation, after: Evaluation, count: int) -> Table:
    """The first `count` prompts with the response before and after."""
    table = Table(title=f"the same {after.prompts}, before and after", show_lines=True)
    for column in ("prompt", "before", "after"):
        table.add_column(column, ratio=1 if column == "prompt" else 2)
    for first, second in list(zip(before.episodes, after.episodes, strict=True))[:count]:
        table.add_row(Text(visible(prompt_text(first.prompt))), _response(first), _response(second))
    return table


def _title(evaluation: Evaluation) -> Text:
    # A Text, not a string: the name of a reward or a task may hold what rich takes for markup.
    return Text(f"{visible(evaluation.task)}: {len(evaluation.episodes)} responses to {evaluation.prompts}, mean ± 95%")


def _response(episode: Trajectory) -> Text:
    # A Text, not a string: a model may write what rich takes for markup.
    text = Text(visible(episode.response.strip()) or "(nothing)")
    scores = f"\nscore {episode.score:.2f}"
    if episode.gold_score is not None:
        scores += f", gold {episode.gold_score:.2f}"
    text.append(scores, style="dim")
    return text
