"""The model that a reward model starts from, or whose hidden states it reads."""

from __future__ import annotations

from pathlib import Path

from textrl_agents.reward_models.options import EMBEDDED, EMBEDDED_REWARD
from textrl_agents.runs.run_folder import RunFolder
from textrl_env.models.storage.embedded import asset_folder
from textrl_env.models.storage.policy_folder import verify_policy
from textrl_env.rewards.classifier_loading import model_source


def base_source(model: str | Path | None) -> str:
    """The folder or Hugging Face id of a model.

    model: "embedded" (the embedded policy), "embedded-reward", a folder, a training run, or an id. Of a run it is the
    newest policy. Raises ModelError where the folder is not there, or a policy in it is damaged.
    """
    if model == EMBEDDED:
        return str(asset_folder("policy"))
    if model == EMBEDDED_REWARD:
        return str(asset_folder("reward"))
    assert model is not None  # the options have a default
    source = model_source(model)
    if not Path(source).is_dir():
        return source
    run = RunFolder(source)
    folder = (run.newest_policy if run.config.is_file() else None) or run.path
    verify_policy(folder)
    return str(folder)
