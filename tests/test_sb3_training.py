"""Training by stock SB3: what an update changes and what it must not, determinism, and the known optimum."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.logger import KVWriter, Logger
from transformers import LlamaConfig, LlamaForSequenceClassification

from textrl_agents.check.known_optimum import train_exact_with_sb3
from textrl_agents.sb3 import make_agent
from textrl_agents.training.learning_rate import WarmupSchedule
from textrl_env import Task
from textrl_env.rewards import ClassifierReward
from textrl_env.tasks.enumeration import ExactValue

SMALL = {"n_envs": 4, "n_steps": 16, "seed": 0}
EXACT = {"task": "exact", "device": "cpu"}


def digest(module: torch.nn.Module) -> str:
    """Of every byte of every weight and buffer."""
    total = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        total.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def agent_of(task: Any, algo: str = "ppo", *, env_kwargs: dict[str, Any] | None = None, **arguments: Any) -> Any:
    env_kwargs = {"task": task, "device": "cpu", **(env_kwargs or {})}
    return make_agent(algo, env_kwargs=env_kwargs, **{**SMALL, "learning_rate": 1e-3, **arguments})


class Notes(KVWriter):
    """Keeps what SB3 logs after each update."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        self.rows.append(dict(key_values))


def learn(agent: Any, timesteps: int, *, log_interval: int = 1) -> list[dict[str, Any]]:
    notes = Notes()
    agent.set_logger(Logger(None, [notes]))
    agent.learn(timesteps, log_interval=log_interval)
    # The last update is logged by the next rollout, which does not come.
    return [*notes.rows[1:], dict(agent.logger.name_to_value)]


@pytest.fixture
def classifier(tiny_tokenizer: Any) -> ClassifierReward:
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=1,
        pad_token_id=1,
        initializer_range=0.2,
    )
    return ClassifierReward(LlamaForSequenceClassification(config), tokenizer=tiny_tokenizer, device="cpu")


@pytest.mark.parametrize("algo", ["ppo", "a2c"])
@pytest.mark.parametrize("value_trunk", ["shared", "separate"])
def test_one_update_changes_the_policy_alone(
    algo: str, value_trunk: str, tiny_task: Task, classifier: ClassifierReward
):
    """CHECKS 27: the reference's and the reward model's bytes stay; the policy's and the value head's do not."""
    policy_kwargs = {"value_trunk": value_trunk}
    agent = agent_of(tiny_task, algo, env_kwargs={"reward": classifier}, policy_kwargs=policy_kwargs)
    core, reference = agent.policy.actor_critic, agent.env.env.kl_penalty.reference
    assert core.lm.model is not reference.lm.model
    before = [digest(module) for module in (core.model, core.value_head, reference.lm.model, classifier.model)]
    assert before[0] == before[2], "the policy starts as the reference"
    agent.learn(64)
    after = [digest(module) for module in (core.model, core.value_head, reference.lm.model, classifier.model)]
    assert [one != other for one, other in zip(before, after, strict=True)] == [True, True, False, False]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_one_update_of_an_adapter_leaves_the_reference(tiny_task: Task):
    """CHECKS 27 with LoRA: policy and reference share their weights, and only the adapter is trained."""
    pytest.importorskip("peft")
    agent = make_agent(
        "ppo", env_kwargs={"task": tiny_task, "device": "cpu"}, lora={"r": 4}, **SMALL, learning_rate=1e-2
    )
    core, reference = agent.policy.actor_critic, agent.env.env.kl_penalty.reference
    assert core.lm.model is reference.lm.model
    ids = torch.tensor([[0, 9, 40, 7]])

    def logits() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            return reference.lm.project(reference.lm.hidden(ids)), core.lm.project(core.lm.hidden(ids))

    (reference_before, policy_before) = logits()
    torch.testing.assert_close(reference_before, policy_before, atol=1e-6, rtol=0)
    agent.learn(128)
    (reference_after, policy_after) = logits()
    torch.testing.assert_close(reference_after, reference_before, atol=0, rtol=0)
    assert (policy_after - policy_before).abs().max() > 1e-3


@pytest.mark.parametrize("algo", ["ppo", "a2c"])
def test_a_learning_rate_of_zero_leaves_everything_unchanged(algo: str, tiny_task: Task):
    """CHECKS 30: every weight, bit by bit."""
    agent = agent_of(tiny_task, algo, learning_rate=0.0)
    before = digest(agent.policy)
    agent.learn(192)
    assert digest(agent.policy) == before


def test_the_first_minibatch_has_a_ratio_of_one(make_model: Any, tiny_task: Task, tiny_tokenizer: Any):
    """CHECKS 26: inside stock `PPO.train()`, with dropout in the model's configuration."""
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.5)
    model = make_model("gpt2", **dropout).train()
    env_kwargs = {"model": model, "tokenizer": tiny_tokenizer}
    agent = agent_of(tiny_task, env_kwargs=env_kwargs, n_epochs=1, batch_size=64, learning_rate=0.01)
    ratios = []
    evaluate = agent.policy.evaluate_actions

    def noting(observations: Any, actions: torch.Tensor) -> Any:
        result = evaluate(observations, actions)
        # One minibatch holds all: in the order of its sequences, row by row.
        old = torch.from_numpy(agent.rollout_buffer.log_probs.T.flatten())
        ratios.append((result[1].detach() - old).exp())
        return result

    agent.policy.evaluate_actions = noting
    updates = learn(agent, 192)
    assert len(ratios) == len(updates) == 3
    for ratio, logged in zip(ratios, updates, strict=True):
        torch.testing.assert_close(ratio, torch.ones(64), atol=1e-5, rtol=0)
        assert logged["train/clip_fraction"] == 0.0
        assert abs(logged["train/approx_kl"]) < 1e-8


def test_later_epochs_move_away_from_a_ratio_of_one(tiny_task: Task):
    """The same measurement where it must not be 0: the test above can fail."""
    (row,) = learn(agent_of(tiny_task, n_epochs=4, batch_size=64, learning_rate=0.01), 64)
    assert row["train/approx_kl"] > 1e-4


def test_the_update_is_on_the_rewards_that_were_charged(tiny_task: Task):
    """CHECKS 23 and 29: the value head, which starts at 0, makes the first returns the penalised rewards to go: real
    tokens alone, and with a score of 0 the penalty alone."""
    env_kwargs = {"reward": lambda prompts, completions: [0.0] * len(prompts), "kl_coef": 0.5}
    agent = agent_of(tiny_task, env_kwargs=env_kwargs, gae_lambda=1.0, learning_rate=0.0)
    with torch.no_grad():
        agent.policy.actor_critic.model.lm_head.weight.add_(0.3 * torch.randn(320, 32))
    agent.learn(64)
    buffer = agent.rollout_buffer
    assert not buffer.values.any(), "every value is exactly 0"
    assert buffer.rewards.mean() < -0.01, "leaving the reference costs reward on average"
    for row in range(4):
        to_go = 0.0
        for step in reversed(range(16)):
            if step == 15 or buffer.episode_starts[step + 1, row]:
                to_go = 0.0
            to_go += float(buffer.rewards[step, row])
            assert buffer.returns[step, row] == pytest.approx(to_go, abs=1e-4)


@pytest.mark.parametrize("algo", ["ppo", "a2c"])
def test_the_same_seed_gives_the_same_weights(algo: str, tiny_task: Task):
    """CHECKS 31: bit by bit after several updates; another seed gives others."""
    digests = []
    for seed in (3, 3, 4):
        agent = agent_of(tiny_task, algo, seed=seed)
        agent.learn(192)
        digests.append(digest(agent.policy))
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


def test_the_entropy_bonus_reaches_the_policy(tiny_task: Task):
    """Its gradient is there whenever `ent_coef` is not 0, set when the agent is made or at any time later."""
    weights, entropies = [], []
    for ent_coef, later in ((0.0, 0.0), (0.5, 0.5), (0.0, 0.5), (0.5, 0.0)):
        agent = agent_of(tiny_task, ent_coef=ent_coef, n_epochs=1, batch_size=64)
        agent.ent_coef = later
        (row,) = learn(agent, 64)
        entropies.append(row["train/entropy_loss"])
        weights.append(digest(agent.policy))
    assert weights[0] != weights[1]
    assert weights[2] == weights[1]
    assert weights[3] == weights[0]
    assert entropies == pytest.approx([entropies[0]] * 4, abs=1e-6)
    assert entropies[0] < -0.5


def test_cross_entropy_mode_pays_the_references_log_prob_and_nothing_else(tiny_task: Task, make_model: Any):
    """A policy that learns, with an entropy bonus: neither its own log-probs nor its entropy are in the rewards."""
    env_kwargs = {"kl_mode": "cross_entropy", "kl_coef": 0.1}
    agent = agent_of(tiny_task, env_kwargs=env_kwargs, ent_coef=0.1, learning_rate=1e-2)
    before = digest(agent.policy)
    agent.learn(192)
    assert digest(agent.policy) != before
    buffer, reference, paid = agent.rollout_buffer, make_model("llama"), []
    for ids, first in [(each.ids, len(each.ids) - len(each)) for each in buffer.trajectories]:
        with torch.no_grad():
            logits = reference(input_ids=torch.from_numpy(ids)[None]).logits[0].double()
        # Without the ids that are never sampled.
        log_probs = logits.masked_fill(agent.policy.actor_critic.banned, -torch.inf).log_softmax(-1).numpy()
        paid.append(log_probs[np.arange(len(ids) - 1), ids[1:]][first - 1 :])
    rest = buffer.rewards[buffer._place] - 0.1 * np.concatenate(paid)
    scores = [episode.score for episode in buffer.episodes]
    assert len(scores) > 4
    np.testing.assert_allclose(np.sort(rest)[::-1][: len(scores)], np.sort(scores)[::-1], atol=1e-4)
    np.testing.assert_allclose(np.sort(rest)[::-1][len(scores) :], 0.0, atol=1e-4)


@pytest.mark.slow
def test_an_entropy_bonus_does_not_make_cross_entropy_kl():
    """SB3's bonus weighs the entropy of states as they come; the KL counts that of all states to come, in the return.
    The same training nears the optimum in one mode and stays about where the reference is in the other."""
    reached = {}
    for kl_mode, ent_coef in (("deferred", 0.0), ("cross_entropy", 0.5)):
        env_kwargs = {**EXACT, "kl_mode": kl_mode}
        reached[kl_mode] = train_exact_with_sb3(0, iterations=25, env_kwargs=env_kwargs, ent_coef=ent_coef).normalized
    assert reached["deferred"] > 0.8
    assert reached["cross_entropy"] < 0.4


@pytest.mark.slow
def test_the_known_optimum_is_reached():
    """CHECKS 30: by the policy's exact value, 0 for the reference and 1 for the best there is."""
    agent, normalized, _ = train_exact_with_sb3(0, device="cpu")
    assert type(agent) is PPO
    assert 0.98 <= normalized <= 1.0


@pytest.mark.slow
def test_most_of_the_known_optimum_of_two_turns_is_reached_soon():
    """What is best in the first turn alone is not best: the critic must carry the second turn's points back to it."""
    agent, normalized, _ = train_exact_with_sb3(0, task="exact_turns", iterations=60, device="cpu")
    assert type(agent) is PPO
    assert 0.7 <= normalized <= 1.0


@pytest.mark.slow
def test_a2c_improves_too():
    """CHECKS 30, from exactly 0."""
    agent = make_agent("a2c", env_kwargs=EXACT, n_envs=64, n_steps=10, learning_rate=3e-3, seed=0)
    value = ExactValue(agent.env.env.rules, agent.env.env.prompts)
    assert value.normalized(agent.policy.actor_critic) == pytest.approx(0.0, abs=1e-4)
    agent.learn(48_000)
    assert 0.5 < value.normalized(agent.policy.actor_critic) <= 1.0


@pytest.mark.slow
def test_an_enormous_coefficient_keeps_the_policy_at_the_reference():
    """CHECKS 30: the exact KL per response after training, where a small coefficient lets the same training leave.

    No value loss: its gradient grows with the coefficient's square and would move the trunk they share.
    """
    kl = {}
    for coef in (0.05, 1000.0):
        schedule = WarmupSchedule(1e-3, final=0.0)
        settings = {"n_envs": 64, "n_steps": 10, "batch_size": 160, "vf_coef": 0.0, "learning_rate": schedule}
        agent = make_agent("ppo", env_kwargs={**EXACT, "kl_coef": coef}, seed=0, **settings)
        agent.learn(9600)
        value, core = ExactValue(agent.env.env.rules, agent.env.env.prompts), agent.policy.actor_critic
        # J = E[score] - beta * KL, exactly, at two values of beta.
        penalised = value.value(core)
        value.beta = 0.0
        kl[coef] = (value.value(core) - penalised) / coef
    assert 0 <= kl[1000.0] < 0.1
    assert kl[0.05] > 2.0
