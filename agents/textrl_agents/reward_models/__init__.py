"""Reward models: trained on what annotators said, judged on prompts that were held out, and served.

train.py            train_reward_model and evaluate_reward_model: from records to a folder that make_reward loads
options.py          what a training can be told
judgements.py       records as pairs and ratings of one table of responses
heldout.py          the split by prompt
fitting/            the kinds of model, and ensembles of them
measures/           accuracy with its interval, calibration, length bias, groups, best of four
reference.py        the responses on which scores get mean 0 and standard deviation 1
report.py, card.py  what was found, as data and as a model card
sources.py          records and gold scores, as a command line names them
serving.py          a reward that answers by HTTP (scoring_request.py)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textrl_agents.reward_models.train import evaluate_reward_model, train_reward_model

__all__ = ["evaluate_reward_model", "train_reward_model"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # imports torch and transformers: only when it is used
        from textrl_agents.reward_models import train

        return getattr(train, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
