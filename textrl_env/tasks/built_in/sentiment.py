"""Continue the opening of a short review so that the embedded reward model likes it.

The reward model is a proxy, trained on pairs that a rule-based gold scorer ranked. The gold score is reported beside
it: an agent that learns to please the proxy alone shows as a gap between the two.

Held out are pairs of a subject and an opening: each subject ("soup") and each opening ("I thought the ... was") is
trained on in other pairs. The reward model learned from continuations of the training and the validation prompts, and
of none that are held out. The embedded policy has seen all of them in its own training text.
"""

from __future__ import annotations

from textrl_env.language.gold import gold_sentiment
from textrl_env.language.grammar import review_prompts
from textrl_env.rewards import FunctionReward
from textrl_env.tasks.task import Task

TASK = Task(
    name="sentiment",
    prompts=lambda: review_prompts("train"),
    validation_prompts=lambda: review_prompts("validation"),
    heldout_prompts=lambda: review_prompts("heldout"),
    reward="embedded",
    # Pure arithmetic on text: it cannot hang, so it needs no time limit (and no thread to keep one).
    gold=FunctionReward(gold_sentiment, timeout=None),
    kl_coef=0.05,
    max_prompt_tokens=24,
    max_new_tokens=48,
    description="continue a review so that the embedded reward model likes it",
)
