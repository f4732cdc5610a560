"""The names that other programs may use. A change here is a change of the contract: say so in the changelog."""

import importlib

import pytest

NAMES = {
    "textrl_env": "KLPenalty Task TextGenEnv TextGenVectorEnv TokenAction __version__ errors models register_task "
    "rewards",
    "textrl_env.rewards": "ClassifierReward CompositeReward EnsembleReward FunctionReward HashedNgrams HiddenStates "
    "LengthReward LinearReward NormalizedReward RemoteReward RepetitionReward Reward Scores TokenFunctionReward "
    "check_reward completion_text make_reward register_reward registered_rewards reward_name save_normalization "
    "score_episodes score_newest_tokens write_reward_file",
    "textrl_env.models": "CausalLM CausalLMActorCritic LoadedModel MaskedActorCritic PackedEpisodes Reference "
    "SamplingParams ScriptedModel SlotCache SlotDecoder Vocabulary load_model pack",
    "textrl_env.tasks": "Task get_task register_task task_names",
    "textrl_agents.rllib": "CausalLMModule export_policy make_config policy_of ray_session training_metrics",
    "textrl_agents.sb3": "CausalLMPolicy EpisodeRolloutBuffer ModelCopy TextVecEnv make_agent",
}


@pytest.mark.parametrize("module", NAMES)
def test_public_names(module: str):
    found = importlib.import_module(module)
    assert sorted(found.__all__) == NAMES[module].split()
    assert all(getattr(found, name) is not None for name in found.__all__)
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        found.no_such_name  # noqa: B018
