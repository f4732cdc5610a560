"""The model that a reward model starts from, or whose hidden states it reads."""

from __future__ import annotations

from pathlib import Path

from textrl_agents.runs.run_folder import RunFolder
from textrl_env.models.storage.embedded import asset_folder
from textrl_env.models.storage.loading import EMBEDDED
from textrl_env.models.storage.policy_folder import verify_policy
from textrl_env.rewards.classifier_loading import model_source

EMBEDDED_REWARD = "embedded-reward"
"""The embedded reward model: it has learned the sentiment task's gold score, so it knows much before any feedback."""


def base_source(model: str | Path) -> str:
    """The folder or Hugging Face id of a model.

    model: "embedded" (the embedded policy), "embedded-reward", a folder, a training run, or an id. Of a run it is the
    newest policy. Raises ModelError where the folder is not there, or a policy in it is damaged.
    """
    if model == EMBEDDED:
        return str(asset_folder("policy"))
    if model == EMBEDDED_REWARD:
        return str(asset_folder("reward"))
    source = model_source(model)
    if not Path(source).is_dir():
        return source
    run = RunFolder(source)
    folder = (run.newest_policy if run.config.is_file() else None) or run.path
    verify_policy(folder)
    return str(folder)
