"""Reward models trained on what annotators said.

judgements.py       records as pairs and ratings of one table of responses
heldout.py          the split by prompt
options.py          what a training can be told
base_model.py       the model that a reward model starts from or reads
head.py             a linear head by gradient: margins, ties and ratings in one loss
scikit.py           logistic regression, linear SVM and ridge regression
classifier.py       a sequence classifier, through TRL's stock trainer
members.py          one model, or an ensemble on resampled prompts
evaluation.py       how well it orders responses that it has not seen
shares.py           shares with their 95% interval
calibration.py      whether a stated probability is the share that is right
reference.py        the responses on which scores get mean 0 and standard deviation 1
report.py, card.py  what was found, as data, Markdown and a figure
train.py            train_reward_model and evaluate_reward_model
"""

from textrl_agents.reward_models.train import evaluate_reward_model, train_reward_model

__all__ = ["evaluate_reward_model", "train_reward_model"]
