"""A plain Gymnasium loop: random tokens, then the embedded model's own, and what each earns.

Run: python examples/quickstart.py
"""

import gymnasium as gym
import torch

import textrl_env
from textrl_env.models import CausalLMActorCritic, load_model

env = gym.make("TextRLHF-v0", task="sentiment")

# Any Gymnasium agent works: an action is a token id, and without a log-probability the KL charge is the cross-entropy.
observation, info = env.reset(seed=0)
done = False
while not done:
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    done = terminated or truncated
print(
    f"random tokens   {info['prompt']}|{info['response']!r}\n  score {info['score']:.2f}  kl_sum {info['kl_sum']:.1f}"
)

# An agent that knows its log-probability passes it on, and the charge is the log-ratio: 0 for the reference itself.
model, tokenizer = load_model("embedded")
policy = CausalLMActorCritic(model, tokenizer, max_length=env.observation_space.shape[0])
torch.manual_seed(0)
observation, info = env.reset(seed=0)
done = False
while not done:
    action = policy.step(torch.from_numpy(observation)[None])
    pair = textrl_env.TokenAction(int(action.tokens[0]), float(action.log_probs[0]))
    observation, reward, terminated, truncated, info = env.step(pair)
    done = terminated or truncated
print(f"the model       {info['prompt']}|{info['response']}\n  score {info['score']:.2f}  kl_sum {info['kl_sum']:.1e}")
