"""The names of the rows of `textrl bench speed`, known without torch, and where each is measured.

The table without `--model` is about the embedded models, and the same on every machine; `--model` has one of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from textrl_env.errors import UnknownName

SPEED_ROWS = {
    "rollout vs by hand, equal lengths": "textrl_agents.speed.sampling.rollout_rows:rollout_of_equal_lengths",
    "rollout vs by hand, to EOS": "textrl_agents.speed.sampling.rollout_rows:rollout_to_eos",
    "stepping vs generate, equal lengths": "textrl_agents.speed.sampling.decoding_rows:stepping",
    "stepping vs generate_batch": "textrl_agents.speed.sampling.decoding_rows:stepping_against_continuous_batching",
    "stepping: ahead vs slots": "textrl_agents.speed.sampling.decoding_rows:stepping_ahead",
    "scores: deferred vs stepwise": "textrl_agents.speed.sampling.score_rows:deferred_against_stepwise",
    "scores: a judge of a second a call": "textrl_agents.speed.sampling.score_rows:slow_judge",
    "update vs one prefix per transition": "textrl_agents.speed.training.update_rows:episodes_against_prefixes",
    "update time per token, long vs short": "textrl_agents.speed.training.update_rows:long_against_short",
    "update time per action, turns vs one turn": "textrl_agents.speed.training.turn_rows:several_turns_against_one",
    "fine-tuning: a step vs its updates": "textrl_agents.speed.training.finetune_rows:step_against_optimizer_steps",
    "separate value trunk vs shared, to EOS": "textrl_agents.speed.training.update_rows:separate_trunk_against_shared",
    "update memory, chunked vs not": "textrl_agents.speed.training.update_rows:memory_of_an_update",
    "precision: rollout, auto vs float32": "textrl_agents.speed.training.precision_rows:rollout",
    "precision: update, auto vs float32": "textrl_agents.speed.training.precision_rows:update",
    "update in micro-batches vs at once": "textrl_agents.speed.training.precision_rows:micro_batches",
    "vector env alone": "textrl_agents.speed.sampling.rollout_rows:environment_alone",
    "exact: PPO vs optimum": "textrl_agents.speed.training.learning_rows:exact_with_sb3",
    "demo: rise of held-out gold": "textrl_agents.speed.training.learning_rows:demo_gold_score",
    "rllib: sampling vs SB3": "textrl_agents.speed.training.rllib_rows:sampling_against_sb3",
    "rllib: update vs its default pipeline": "textrl_agents.speed.training.rllib_rows:update_against_default_pipeline",
    "rllib: ratio at the first minibatch": "textrl_agents.speed.training.rllib_rows:ratio_at_first_minibatch",
    "rllib: exact, PPO vs optimum": "textrl_agents.speed.training.learning_rows:exact_with_rllib",
    "rllib: share of the rewarded token": "textrl_agents.speed.training.learning_rows:rewarded_token_share",
    "trl: RLOO, sampling and update": "textrl_agents.speed.training.trl_rows:rloo_against_trl",
    "trl: GRPO, sampling and update": "textrl_agents.speed.training.trl_rows:grpo_against_trl",
    "feedback: export of 100,000 records": "textrl_agents.speed.feedback.feedback_rows:export_of_records",
    "feedback: next of 100,000 questions": "textrl_agents.speed.feedback.feedback_rows:next_question",
    "feedback: a vote, eight annotators": "textrl_agents.speed.feedback.feedback_page_rows:vote_of_eight",
}
"""Name -> `module:measurement`, in the order of the table."""
MODEL_ROWS = {
    "device: products of matrices": "textrl_agents.speed.pretrained.model_rows:products",
    "device: memory": "textrl_agents.speed.pretrained.model_rows:bandwidth",
    "rollout": "textrl_agents.speed.pretrained.model_rows:rollout",
    "rollout: share of its roofline": "textrl_agents.speed.pretrained.model_rows:rollout_share",
    "update": "textrl_agents.speed.pretrained.model_rows:update",
    "update: share of its roofline": "textrl_agents.speed.pretrained.model_rows:update_share",
    "end to end": "textrl_agents.speed.pretrained.model_rows:end_to_end",
    "rollout vs generate, equal lengths": "textrl_agents.speed.pretrained.model_rows:rollout_of_equal_lengths",
    "rollout vs generate, to EOS": "textrl_agents.speed.pretrained.model_rows:rollout_to_eos",
    "stepping vs generate, equal lengths": "textrl_agents.speed.pretrained.model_rows:stepping",
    "stepping vs generate_batch": "textrl_agents.speed.pretrained.model_rows:stepping_against_continuous_batching",
    "trl: RLOO, sampling and update": "textrl_agents.speed.pretrained.model_rows:rloo_against_trl",
    "trl: GRPO, sampling and update": "textrl_agents.speed.pretrained.model_rows:grpo_against_trl",
}
"""The same of the table of a model by its name."""


def chosen_names(only: str | Sequence[str] | None, rows: Mapping[str, str] = SPEED_ROWS) -> list[str]:
    """Return the names of `rows` that `only` asks for, or one of several; all for None or an empty list.

    A text asks for the name that it is, or else for all names that contain it. Raises UnknownName where none does.
    """
    wanted = [only] if isinstance(only, str) else list(only or [""])
    chosen = {name for part in wanted for name in ([part] if part in rows else rows) if part in name}
    for part in wanted:
        if not any(part in name for name in rows):
            raise UnknownName("measurement", part, list(rows))
    return [name for name in rows if name in chosen]
