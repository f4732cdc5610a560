"""Fresh samples of a policy, judged and compared with the reference."""

from textrl_agents.evaluation.evaluation import Evaluation, evaluate, paired_difference

__all__ = ["Evaluation", "evaluate", "paired_difference"]
