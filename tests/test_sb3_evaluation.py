"""SB3's `evaluate_policy` and `EvalCallback` report what is trained: score - kl_coef * KL, wherever they look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor, VecNormalize

import textrl_env
from textrl_agents.sb3 import TextVecEnv, make_agent
from textrl_env import Task, TextGenVectorEnv
from textrl_env.errors import ConfigError, InvalidAction, MissingLogProb
from textrl_env.tasks import get_task
from textrl_env.tasks.enumeration import ExactValue

COEF = 0.7
EXACT: dict[str, Any] = {"task": "exact", "kl_coef": COEF, "device": "cpu"}


@pytest.fixture
def agent() -> Any:
    """A policy far from its reference, so that a KL left out shows."""
    made = make_agent("ppo", env_kwargs=EXACT, n_envs=4, n_steps=8, seed=0, device="cpu")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in made.policy.parameters():
            weight.add_(0.15 * torch.randn(weight.shape, generator=generator))
    return made


def greedy_returns(agent: Any) -> dict[str, float]:
    """Prompt -> return of the greedy response by plain models: the KL of a point mass is -log pi_ref."""
    env = TextGenVectorEnv(1, autoreset_mode="SAME_STEP", kl_mode="deferred", **{**EXACT, "kl_coef": 0.0})
    policy, reference = agent.policy.actor_critic.model, get_task("exact").model()[0]
    returns = {}
    for index in range(len(env.prompts)):
        ids, _ = env.reset(options={"prompt_index": [index]})
        total, ended = 0.0, False
        while not ended:
            state = torch.from_numpy(ids[ids >= 0])[None]
            with torch.no_grad():
                token = policy(input_ids=state).logits[0, -1].argmax()
                total += COEF * float(reference(input_ids=state).logits[0, -1].log_softmax(-1)[token])
            ids, reward, terminated, _, infos = env.step(token[None].numpy())
            total, ended = total + reward[0], bool(terminated[0])
        returns[infos["final_info"]["prompt"][0]] = total
    return returns


WAYS = {
    "deferred": lambda: TextVecEnv(num_envs=2, **EXACT),
    "log_ratio": lambda: TextVecEnv(num_envs=2, kl_mode="log_ratio", **EXACT),
    "auto": lambda: TextVecEnv(num_envs=2, kl_mode="auto", **EXACT),
    "cross_entropy": lambda: TextVecEnv(num_envs=2, kl_mode="cross_entropy", **EXACT),
    "VecMonitor": lambda: VecMonitor(TextVecEnv(num_envs=2, **EXACT)),
    "gym.make": lambda: Monitor(gymnasium.make(textrl_env.ENV_ID, **EXACT)),
    "DummyVecEnv": lambda: DummyVecEnv([lambda: Monitor(gymnasium.make(textrl_env.ENV_ID, **EXACT))] * 2),
}


OVERWRITES = pytest.mark.filterwarnings("ignore:The environment is already wrapped with a `Monitor` wrapper")


@OVERWRITES
@pytest.mark.parametrize("way", WAYS)
def test_greedy_evaluation_is_the_same_everywhere(way: str, agent: Any):
    """`evaluate_policy`'s default decodes greedily. Every episode's return is that of the plain models."""
    expected = greedy_returns(agent)
    env = WAYS[way]()
    prompts: list[str] = []

    def note(local: dict[str, Any], _: dict[str, Any]) -> None:
        if local["done"]:
            prompts.append(local["info"]["prompt"])

    returns, lengths = evaluate_policy(agent, env, n_eval_episodes=12, return_episode_rewards=True, callback=note)
    assert set(prompts) == set(expected)
    np.testing.assert_allclose(returns, [expected[prompt] for prompt in prompts], atol=1e-4)
    assert min(lengths) >= 1
    env.close()


@OVERWRITES
@pytest.mark.parametrize("way", [way for way in WAYS if way != "cross_entropy"])
def test_sampled_evaluation_is_score_minus_kl(way: str, agent: Any):
    """With `deterministic=False`: every episode's return against the log-ratio of its tokens by the plain models."""
    expected = []

    def note(local: dict[str, Any], _: dict[str, Any]) -> None:
        if local["done"]:
            info = local["info"]
            expected.append(info["score"] - COEF * float(log_ratios(agent, info["terminal_observation"]).sum()))
            scores.append(info["score"])

    scores: list[float] = []
    env = WAYS[way]()
    returns, _ = evaluate_policy(agent, env, 16, deterministic=False, return_episode_rewards=True, callback=note)
    np.testing.assert_allclose(returns, expected, atol=1e-4)
    assert np.abs(np.array(returns) - scores).max() > 0.1, "too little KL to show whether it is left out"
    env.close()


def log_ratios(agent: Any, observation: np.ndarray) -> torch.Tensor:
    """log pi - log pi_ref of every token after the prompt's one."""
    ids = torch.from_numpy(observation[observation >= 0])
    models = agent.policy.actor_critic.model, get_task("exact").model()[0]
    with torch.no_grad():
        own, ref = (each(input_ids=ids[None]).logits[0, :-1].double().log_softmax(-1) for each in models)
    return (own - ref)[torch.arange(len(ids) - 1), ids[1:]]


def test_the_records_of_an_evaluation_add_up(agent: Any):
    """CHECKS 7 where the environment charges at an episode's end: rewards, `info["episode"]` and kl_sum agree."""
    env = TextVecEnv(num_envs=3, **EXACT)
    observations, sums, ended = env.reset(), np.zeros(3), 0
    while ended < 12:
        tokens, _ = agent.predict(observations)
        observations, rewards, dones, infos = env.step(tokens)
        sums += rewards
        for row in np.flatnonzero(dones):
            info, ended = infos[row], ended + 1
            assert info["episode"]["r"] == pytest.approx(sums[row], abs=1e-5)
            assert sums[row] == pytest.approx(info["score"] - COEF * info["kl_sum"], abs=1e-5)
            assert abs(info["kl_sum"]) > 1e-3
            sums[row] = 0.0


@pytest.mark.parametrize("estimator", ["k3", "full"])
def test_an_evaluation_charges_by_the_environments_estimator(estimator: str, agent: Any):
    """Deferred against stepwise for k3; for "full", which no step can bring, against the exact divergence."""
    env = TextVecEnv(num_envs=2, kl_estimator=estimator, **EXACT)
    observations, kls = env.reset(), []
    while len(kls) < 6:
        tokens, _ = agent.predict(observations)
        observations, _, dones, infos = env.step(tokens)
        for row in np.flatnonzero(dones):
            ids = torch.from_numpy(infos[row]["terminal_observation"])
            ids = ids[ids >= 0]
            models = agent.policy.actor_critic.model, get_task("exact").model()[0]
            with torch.no_grad():
                own, ref = (each(input_ids=ids[None]).logits[0, :-1].double().log_softmax(-1) for each in models)
            chosen = (own - ref)[torch.arange(len(ids) - 1), ids[1:]]
            exact = (own.exp() * (own - ref)).sum(-1)
            wanted = exact if estimator == "full" else (-chosen).expm1() + chosen
            kls.append((infos[row]["kl_sum"], float(wanted.sum())))
    np.testing.assert_allclose(*zip(*kls, strict=True), atol=1e-4)


def test_an_episode_that_began_otherwise_is_refused(agent: Any):
    env = TextVecEnv(num_envs=2, **EXACT)
    observations = env.reset()
    observations, *_ = env.step(np.array([1, 2]))

    def to_the_end() -> None:
        after = observations
        for _ in range(6):
            after, *_ = env.step(agent.predict(after)[0])

    with pytest.raises(MissingLogProb, match=r"of which agent\.predict drew the last .*Reset the environment before"):
        to_the_end()


def test_an_action_is_an_integer_to_foreign_code(agent: Any):
    """What `predict` gives can be indexed, compared, counted with and stepped with, alone or in a batch."""
    env = gymnasium.make(textrl_env.ENV_ID, **EXACT)
    observation, _ = env.reset(seed=0)
    action, _ = agent.predict(observation)
    assert int(action) in range(6)
    assert "abcdef"[action] == "abcdef"[int(action)]
    assert action + 1 == int(action) + 1
    *_, info = env.step(action)
    assert np.isfinite(info["kl"]), "the action came with its log-probability"
    batch, _ = agent.predict(np.stack([observation] * 3))
    assert [int(token) for token in batch] == batch.tolist()
    assert type(batch == batch[0]) is np.ndarray
    assert type(batch[1:]) is np.ndarray


def test_the_best_model_is_the_best_model(tmp_path: Path):
    """A policy that gains score by leaving the reference too far loses to one that stays."""
    kwargs = {**EXACT, "kl_coef": 5.0}
    agent = make_agent("ppo", env_kwargs=kwargs, n_envs=8, n_steps=8, seed=0, learning_rate=0.0)
    start = {name: tensor.clone() for name, tensor in agent.policy.state_dict().items()}
    value = ExactValue(agent.env.env.rules, agent.env.env.prompts)
    value.beta = 0.0
    scores = [value.value(agent.policy.actor_critic)]
    original = agent.train

    def leave() -> None:
        original()
        with torch.no_grad():  # towards what scores best, whatever the reference thinks of it
            agent.policy.actor_critic.model.lm_head.weight.mul_(0.2)
        scores.append(value.value(agent.policy.actor_critic))

    agent.train = leave
    callback = EvalCallback(
        TextVecEnv(num_envs=8, **kwargs),
        n_eval_episodes=64,
        eval_freq=8,
        deterministic=False,
        best_model_save_path=str(tmp_path),
        log_path=str(tmp_path),
        verbose=0,
    )
    agent.learn(3 * 64, callback=callback)
    assert len(callback.evaluations_results) == 3
    best = PPO.load(tmp_path / "best_model", device="cpu")
    for name, tensor in best.policy.state_dict().items():
        assert torch.equal(tensor, start[name]), name
    assert len({round(score, 3) for score in scores}) > 1


def test_evaluating_in_the_middle_of_a_rollout_leaves_training_as_it_was():
    """`EvalCallback` predicts between two steps of a rollout, with the same policy object."""
    weights = []
    for evaluated in (False, True):
        env_kwargs = {**EXACT, "kl_mode": "log_ratio"}
        agent = make_agent("ppo", env_kwargs=env_kwargs, n_envs=4, n_steps=8, seed=0, learning_rate=1e-2)
        callback = EvalCallback(TextVecEnv(num_envs=3, **EXACT), n_eval_episodes=3, eval_freq=3, verbose=0)
        agent.learn(128, callback=callback if evaluated else None)
        weights.append(agent.policy.actor_critic.model.lm_head.weight.detach())
    torch.testing.assert_close(*weights, atol=1e-4, rtol=0)


def test_wrappers_of_sb3_are_refused_in_one_way():
    inner = TextVecEnv(num_envs=2, **EXACT)
    with pytest.warns(UserWarning, match="already wrapped with a `Monitor`"):
        monitored = VecMonitor(inner)
    for wrapped in (VecNormalize(inner, norm_obs=False), monitored):
        with pytest.raises(
            ConfigError, match=rf"{type(wrapped).__name__} around a TextVecEnv.*Pass the TextVecEnv itself"
        ):
            make_agent("ppo", wrapped)
    dummy = DummyVecEnv([lambda: gymnasium.make(textrl_env.ENV_ID, **EXACT)])
    with pytest.raises(ConfigError, match=r"DummyVecEnv runs one environment a row; pass TextVecEnv\('TextRLHF-v0'"):
        make_agent("ppo", dummy)


def test_maskable_ppo_finds_the_mask_of_each_row(tiny_task: Task):
    """sb3-contrib asks by `env_method("action_masks")` and stacks the answers of the rows."""
    contrib = pytest.importorskip("sb3_contrib")
    utils = pytest.importorskip("sb3_contrib.common.maskable.utils")
    env = TextVecEnv(num_envs=3, task=tiny_task, kl_mode="cross_entropy", device="cpu")
    unknown = np.arange(320) >= 40
    env.env.rules.vocabulary.known[unknown] = False
    assert utils.is_masking_supported(env)
    masks = utils.get_action_masks(env)
    assert (masks.shape, masks.dtype) == ((3, 320), np.bool_)
    np.testing.assert_array_equal(masks, [~unknown] * 3)
    assert np.shape(env.env_method("action_masks", indices=[1])) == (1, 320)
    agent = contrib.MaskablePPO("MlpPolicy", env, n_steps=8, batch_size=8, n_epochs=1, device="cpu").learn(24)
    assert agent.rollout_buffer.actions.max() < 40


@pytest.mark.slow
def test_greedy_evaluation_in_other_processes(agent: Any):
    env = SubprocVecEnv([_one_env] * 2, start_method="spawn")
    expected = greedy_returns(agent)
    returns, _ = evaluate_policy(agent, env, 6, return_episode_rewards=True)
    env.close()
    for got in returns:
        assert min(abs(got - wanted) for wanted in expected.values()) < 1e-4


def _one_env() -> Any:
    return Monitor(gymnasium.make(textrl_env.ENV_ID, **EXACT))


def evaluated_by_hand(agent: Any, env: Any) -> None:
    env.step(agent.predict(env.reset(seed=0)[0])[0])


DEFERRED: dict[str, Any] = {**EXACT, "kl_mode": "deferred"}
NOBODY_CHARGES: dict[str, tuple[Any, Any]] = {
    "gym.make": (lambda: Monitor(gymnasium.make(textrl_env.ENV_ID, **DEFERRED)), evaluate_policy),
    "DummyVecEnv": (
        lambda: DummyVecEnv([lambda: Monitor(gymnasium.make(textrl_env.ENV_ID, **DEFERRED))]),
        evaluate_policy,
    ),
    "gym.make_vec": (lambda: gymnasium.make_vec(textrl_env.ENV_ID, num_envs=2, **DEFERRED), evaluated_by_hand),
}


@pytest.mark.parametrize("way", NOBODY_CHARGES)
def test_an_environment_that_defers_the_kl_to_nobody_refuses_a_policy(way: str, agent: Any):
    """It would pay the score alone: no adapter is there to charge the episode."""
    make, evaluate = NOBODY_CHARGES[way]
    env = make()
    with pytest.raises(InvalidAction, match=r"kl_mode='deferred' charges no KL, .* Use kl_mode='auto' or 'log_ratio'"):
        evaluate(agent, env)


def test_a_batch_of_predictions_brings_its_log_probs_to_the_native_environment(agent: Any):
    """As one prediction does to a single environment: the log-ratio is charged, not the cross-entropy."""
    env = gymnasium.make_vec(textrl_env.ENV_ID, num_envs=3, **EXACT)
    observations, _ = env.reset(seed=0)
    tokens, _ = agent.predict(observations)
    infos = env.step(tokens)[4]
    np.testing.assert_allclose(infos["kl"] + infos["ref_log_prob"], tokens.log_probs.numpy(), atol=1e-6)
    assert np.abs(infos["kl"]).min() > 1e-4


def test_a_soft_policy_is_evaluated_by_what_it_solves():
    """In the default mode: score minus KL. It starts as its reference, so that is the score alone."""
    agent = make_agent("soft_dqn", env_kwargs=EXACT, n_envs=2, seed=0)
    scores: list[float] = []

    def note(local: dict[str, Any], _: dict[str, Any]) -> None:
        if local["done"]:
            scores.append(local["info"]["score"])

    returns, _ = evaluate_policy(
        agent, TextVecEnv(num_envs=4, **EXACT), 12, deterministic=False, return_episode_rewards=True, callback=note
    )
    np.testing.assert_allclose(returns, scores, atol=1e-4)
