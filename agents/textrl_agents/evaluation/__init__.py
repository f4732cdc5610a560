"""Fresh samples of a policy, judged and compared with the reference."""

from textrl_agents.evaluation.evaluation import Evaluation, paired_difference
from textrl_agents.evaluation.fresh_samples import evaluate

__all__ = ["Evaluation", "evaluate", "paired_difference"]
