"""A rollout and an update of an SB3 algorithm by themselves, for what measures or checks them one by one."""

from __future__ import annotations

from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm


class SB3Phases:
    """The rollout and the update of an SB3 algorithm, as two calls. They write no logs."""

    def __init__(self, agent: OnPolicyAlgorithm):
        agent.set_logger(Logger(folder=None, output_formats=[]))
        _, self._callback = agent._setup_learn(total_timesteps=2**40)
        self.agent = agent
        self.tokens = agent.n_steps * agent.n_envs  # of one rollout, every one of them real

    def collect(self) -> int:
        """Run one rollout by SB3's own loop; return its tokens."""
        agent = self.agent
        assert agent.env is not None
        agent.collect_rollouts(agent.env, self._callback, agent.rollout_buffer, agent.n_steps)
        return self.tokens

    def train(self) -> int:
        """Run SB3's own update on the last rollout; return the rollout's tokens."""
        self.agent.train()
        return self.tokens
