"""The model card of a run's policy: what it was trained for, what came of it, with which settings, and its use."""

from __future__ import annotations

import dataclasses
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard

from textrl_agents.runs.config import TrainConfig
from textrl_agents.runs.logs import STEP, MetricsFile, markdown_cell, markdown_row
from textrl_agents.runs.run_evaluations import SHOWN, metric
from textrl_agents.runs.run_folder import RunFolder
from textrl_env.models.storage.policy_folder import CARD_FILE
from textrl_env.text.prompt_splits import LABELS

_USE = """\
## Intended use

For research on reinforcement learning from feedback, and to compare algorithms. The policy was trained to please one
reward. Its score is what that reward gives, on prompts like those of its training, and says nothing of anything else:
not whether people like the responses, nor whether these are true or harmless. Look at the samples first. Do not let it
decide or advise without a person who checks it.
"""
_SPLITS = ("heldout", "validation", "train")  # the one to report comes first


def run_card(run: RunFolder, title: str) -> str:
    """Markdown with a YAML header for the policy of `run`, whose own card is extended. title: the repository's name.

    Its header holds the last evaluation as results, which the hub shows. Raises ConfigError where the run's settings
    cannot be read, and ValueError where the policy's own card is none.
    """
    policy = run.newest_policy
    assert policy is not None  # the caller has looked
    config = TrainConfig.of_run(run.config)
    card = ModelCard.load(policy / CARD_FILE, ignore_metadata_errors=True)
    first, last, split = _evaluations(run)
    if last:
        card.data.model_name = title
        card.data.eval_results = [
            EvalResult(
                task_type="text-generation",
                dataset_type=config.task,
                dataset_name=f"{config.task}, {LABELS[split]}",
                metric_type=measure,
                metric_name=name,
                metric_value=round(last[metric(split, measure)], 4),
            )
            for measure, name in SHOWN.items()
            if metric(split, measure) in last
        ]
    settings = yaml.safe_dump(_settings(config), sort_keys=False, allow_unicode=True).rstrip()
    fence = "`" * (3 + settings.count("`"))  # longer than any run of them within
    card.text = "\n".join(
        [
            card.text.strip().replace("# A policy of textrl-env", f"# {title}", 1),
            "",
            *_results(first, last, split),
            "",
            _USE,
            "## Settings",
            "",
            f"{fence}yaml",
            settings,
            fence,
            "",
        ]
    )
    return str(card.content)


def _evaluations(run: RunFolder) -> tuple[dict[str, Any], dict[str, Any], str]:
    """The first and the last line of metrics that evaluate the split which is reported; empty where none does."""
    lines = MetricsFile(run.metrics).read()
    for split in _SPLITS:
        if found := [line for line in lines if line.get(metric(split, "score")) is not None]:
            return found[0], found[-1], split
    return {}, {}, ""


def _results(first: dict[str, Any], last: dict[str, Any], split: str) -> list[str]:
    if not last:
        return ["## Results", "", "The run was not evaluated."]
    rows = [["", f"after {first[STEP]:,} tokens", f"after {last[STEP]:,} tokens"], ["---"] * 3]
    for measure, name in SHOWN.items():
        key = metric(split, measure)
        if key in last:
            rows.append([name, *(markdown_cell(_with_interval(line, key)) for line in (first, last))])
    how = f"Means over responses to {LABELS[split]}, ± half of a 95% interval; of one run with one seed."
    return ["## Results", "", how, "", *map(markdown_row, rows)]


def _with_interval(line: dict[str, Any], key: str) -> str:
    if line.get(key) is None:
        return "-"
    half = line.get(f"{key}_ci95")
    mean = f"{round(line[key], 3) + 0.0:.3f}"  # rounding first keeps -0.000 away
    return mean if half is None else f"{mean} ± {half:.3f}"


def _settings(config: TrainConfig) -> dict[str, Any]:
    """What the run was given, without what says where on its machine it ran."""
    given = dataclasses.asdict(config)
    return {name: value for name, value in given.items() if value is not None and name not in ("out", "threads")}
