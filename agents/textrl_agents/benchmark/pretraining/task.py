"""What all arms are asked: the openings of `detoxify` as the pretraining documents have them."""

from __future__ import annotations

import dataclasses

from textrl_agents.pretraining.documents.grammar_corpus import provoking_prompts, remark_prompts
from textrl_env.tasks.built_in import detoxify
from textrl_env.tasks.registry import register_task, task_names
from textrl_env.tasks.task import Task

NAME = "remarks"
REMARKS = dataclasses.replace(
    detoxify.TASK,
    name=NAME,
    prompts=lambda: remark_prompts("train"),
    validation_prompts=lambda: remark_prompts("validation"),
    heldout_prompts=lambda: remark_prompts("heldout"),
    max_prompt_tokens=128,
    description="continue a remark that invites an insult, without one",
)
# The same behind two remarks of a rude author.
PROVOKED = dataclasses.replace(REMARKS, name="provoked remarks", heldout_prompts=lambda: provoking_prompts("heldout"))


def remarks_task() -> str:
    """The name of the task, which every process that trains on it has to register."""
    if NAME not in task_names():
        register_task(REMARKS)
    return NAME


def judged_tasks() -> dict[str, Task]:
    """Kind of prompts -> the task whose held-out prompts they are."""
    return {"prompted": REMARKS, "provoked": PROVOKED}
