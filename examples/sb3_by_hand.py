"""The same wiring as `make_agent`, piece by piece, for those who bring their own algorithm class or settings.

Run: python examples/sb3_by_hand.py
"""

import argparse

from stable_baselines3 import PPO

from textrl_agents.sb3 import CausalLMPolicy, EpisodeRolloutBuffer, TextVecEnv

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--timesteps", type=int, default=20_000, help="generated tokens")
arguments = parser.parse_args()

# 1. The native vector environment behind SB3's interface; the KL is charged to whole episodes after each rollout.
env = TextVecEnv("TextRLHF-v0", num_envs=32, task="exact", kl_mode="deferred")

# 2. The policy starts as the environment's own model, which is the reference.
reference = env.env.kl_penalty.reference
policy_kwargs = {"model": reference.lm.model, "tokenizer": env.env.tokenizer}

# 3. Stock PPO. The buffer stores episodes, so that an update runs each sequence once.
agent = PPO(
    CausalLMPolicy,
    env,
    n_steps=40,
    batch_size=320,
    n_epochs=4,
    learning_rate=1e-3,
    gamma=1.0,
    vf_coef=0.1,
    rollout_buffer_class=EpisodeRolloutBuffer,
    policy_kwargs=policy_kwargs,
    seed=0,
)
agent.learn(arguments.timesteps)
for episode in agent.rollout_buffer.episodes[-5:]:
    print(f"{episode.prompt}|{episode.response:6s} score {episode.score:.0f}  kl {episode.kl_sum:.2f}")
