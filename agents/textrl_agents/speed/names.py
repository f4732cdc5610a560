"""The names of the rows of `textrl bench speed`, known without torch, and where each is measured."""

from __future__ import annotations

from collections.abc import Sequence

from textrl_env.errors import UnknownName

SPEED_ROWS = {
    "rollout vs by hand, equal lengths": "textrl_agents.speed.rollout_rows:rollout_of_equal_lengths",
    "rollout vs by hand, to EOS": "textrl_agents.speed.rollout_rows:rollout_to_eos",
    "stepping vs generate, equal lengths": "textrl_agents.speed.decoding_rows:stepping",
    "stepping vs generate_batch": "textrl_agents.speed.decoding_rows:stepping_against_continuous_batching",
    "stepping: ahead vs slots": "textrl_agents.speed.decoding_rows:stepping_ahead",
    "scores: deferred vs stepwise": "textrl_agents.speed.score_rows:deferred_against_stepwise",
    "scores: a judge of a second a call": "textrl_agents.speed.score_rows:slow_judge",
    "update vs one prefix per transition": "textrl_agents.speed.update_rows:episodes_against_prefixes",
    "update time per token, long vs short": "textrl_agents.speed.update_rows:long_against_short",
    "separate value trunk vs shared, to EOS": "textrl_agents.speed.update_rows:separate_trunk_against_shared",
    "update memory, chunked vs not": "textrl_agents.speed.update_rows:memory_of_an_update",
    "precision: rollout, auto vs float32": "textrl_agents.speed.precision_rows:rollout",
    "precision: update, auto vs float32": "textrl_agents.speed.precision_rows:update",
    "update in micro-batches vs at once": "textrl_agents.speed.precision_rows:micro_batches",
    "vector env alone": "textrl_agents.speed.rollout_rows:environment_alone",
    "exact: PPO vs optimum": "textrl_agents.speed.learning_rows:exact_with_sb3",
    "demo: rise of held-out gold": "textrl_agents.speed.learning_rows:demo_gold_score",
    "rllib: sampling vs SB3": "textrl_agents.speed.rllib_rows:sampling_against_sb3",
    "rllib: update vs its default pipeline": "textrl_agents.speed.rllib_rows:update_against_default_pipeline",
    "rllib: ratio at the first minibatch": "textrl_agents.speed.rllib_rows:ratio_at_first_minibatch",
    "rllib: exact, PPO vs optimum": "textrl_agents.speed.learning_rows:exact_with_rllib",
    "rllib: share of the rewarded token": "textrl_agents.speed.learning_rows:rewarded_token_share",
    "trl: RLOO, sampling and update": "textrl_agents.speed.trl_rows:rloo_against_trl",
    "trl: GRPO, sampling and update": "textrl_agents.speed.trl_rows:grpo_against_trl",
    "feedback: export of 100,000 records": "textrl_agents.speed.feedback_rows:export_of_records",
    "feedback: next of 100,000 questions": "textrl_agents.speed.feedback_rows:next_question",
    "feedback: a vote, eight annotators": "textrl_agents.speed.feedback_page_rows:vote_of_eight",
}
"""Name -> `module:measurement`, in the order of the table."""


def chosen_names(only: str | Sequence[str] | None) -> list[str]:
    """Return the names that contain `only`, or one of several; all for None. Raises UnknownName where none does."""
    if only is None:
        return list(SPEED_ROWS)
    wanted = [only] if isinstance(only, str) else list(only)
    for part in wanted:
        if not any(part in name for name in SPEED_ROWS):
            raise UnknownName("measurement", part, list(SPEED_ROWS))
    return [name for name in SPEED_ROWS if any(part in name for part in wanted)]
