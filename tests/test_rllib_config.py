"""`make_config`: what lands in RLlib's own config, what is refused and why, and the env runner that it names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from tiny_tokenizer import tiny_tokenizer as make_tokenizer

pytest.importorskip("ray.rllib")

from ray import cloudpickle, tune
from ray.rllib.algorithms.appo import APPO
from ray.rllib.algorithms.impala import IMPALA
from ray.rllib.algorithms.ppo import PPO
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.utils import force_list

from textrl_agents.rllib import make_config
from textrl_agents.rllib.env_runner import TextEnvRunner
from textrl_agents.rllib.validation import TextCallbacks, check_config
from textrl_agents.training.learning_rate import WarmupSchedule, default_learning_rate
from textrl_env import Task, register_task
from textrl_env.errors import ConfigError, RewardRaised, TextRLError, UnknownName
from textrl_env.kl import AdaptiveKL
from textrl_env.models import SamplingParams
from textrl_env.rewards import register_reward
from textrl_env.rewards import registry as rewards
from textrl_env.tasks import registry as tasks
from textrl_env.tasks.built_in.exact import letter_model, steps_forward

EXACT = {"task": "exact", "device": "cpu"}


@pytest.fixture
def portable_task(tiny_task: Task, make_model: Callable[..., Any]) -> Task:
    """The tiny task, whose model every process makes for itself."""
    return dataclasses.replace(tiny_task, model=lambda: (make_model("llama"), make_tokenizer()))


def make_runner(env: dict[str, Any] | None = None, worker_index: int = 0, algo: str = "ppo", **settings: Any) -> Any:
    settings = {"num_envs_per_env_runner": 4, "rollout_fragment_length": 6, "seed": 0, **settings}
    config = make_config(algo, {**EXACT, **(env or {})}, **settings)
    return TextEnvRunner(config=config, worker_index=worker_index)


@pytest.mark.parametrize(("algo", "kind"), [("ppo", PPO), ("appo", APPO), ("impala", IMPALA)])
def test_defaults_fit_rlhf(algo: str, kind: Any):
    """CHECKS 28: discount 1, Adam's eps 1e-5 in the built learner, a value head at 0; the algorithm is stock."""
    config = make_config(algo, EXACT)
    assert config.algo_class is kind
    assert (config.gamma, config.grad_clip, config.grad_clip_by) == (1.0, 1.0, "global_norm")
    assert (config.entropy_coeff, config.vf_loss_coeff) == (0.0, 0.1)
    assert config.batch_mode == "truncate_episodes"
    assert config.restart_failed_env_runners is True
    assert (config.env, config.env_config["kl_mode"]) == ("textrl_env:TextRLHF-v0", "deferred")
    assert config.env_config["with_reference"] is False, "env runners load no weights twice"
    if algo == "ppo":
        assert (config.lambda_, config.clip_param, config.num_epochs) == (1.0, 0.2, 4)
        assert (config.vf_clip_param, config.kl_coeff) == (float("inf"), 0.0)
    runner = TextEnvRunner(config=config, worker_index=0)
    learner = config.build_learner(env=runner.env)
    learner.shutdown()
    ((_, optimizer),) = learner.get_optimizers_for_module(DEFAULT_MODULE_ID)
    assert isinstance(optimizer, torch.optim.Adam)
    assert [group["eps"] for group in optimizer.param_groups] == [1e-5]
    core = learner.module[DEFAULT_MODULE_ID].unwrapped().actor_critic
    assert not core.value_head.weight.any()
    assert not core.value_head.bias.any()
    assert hasattr(learner.module[DEFAULT_MODULE_ID], "target") is (algo == "appo")
    assert not hasattr(runner.module, "target")
    size = sum(weight.numel() for weight in core.model.parameters())
    assert config.lr == optimizer.param_groups[0]["lr"] == pytest.approx(default_learning_rate(size))


def test_overrides_win_by_their_rllib_names():
    config = make_config("ppo", EXACT, lr=3e-4, num_epochs=2, gamma=0.9, clip_param=0.3, kl_coeff=0.1)
    assert (config.lr, config.num_epochs, config.gamma) == (3e-4, 2, 0.9)
    assert (config.clip_param, config.kl_coeff) == (0.3, 0.1)
    assert config._learner_connector.keywords["gamma"] == 0.9


def test_a_users_callbacks_are_called_besides_ours():
    class Mine(RLlibCallback):
        pass

    def mine(**_: Any) -> None:
        """Nothing."""

    config = make_config("ppo", EXACT, callbacks_class=Mine, callbacks_on_train_result=mine)
    for changed in (config, make_config("ppo", EXACT).callbacks(Mine)):
        assert Mine in force_list(changed.callbacks_class)
        for name in ("on_algorithm_init", "on_train_result", "on_env_runners_recreated"):
            first = force_list(getattr(changed, f"callbacks_{name}"))[0]
            assert first.__func__ is getattr(TextCallbacks, name)
    assert config.callbacks_on_train_result[1] is mine


@pytest.mark.parametrize(
    ("settings", "batch", "minibatch"),
    [
        ({}, 32 * 64, 512),
        ({"num_env_runners": 3}, 3 * 32 * 64, 1536),
        ({"num_env_runners": 3, "num_learners": 2}, 3 * 32 * 64 // 2, 768),
        ({"num_envs_per_env_runner": 2, "rollout_fragment_length": 8}, 16, 5),
        ({"num_envs_per_env_runner": 2, "rollout_fragment_length": 20}, 40, 10),
        ({"train_batch_size_per_learner": 2 * 32 * 64}, 2 * 32 * 64, 1024),
        ({"train_batch_size_per_learner": 320, "rollout_fragment_length": "auto"}, 320, 80),
        ({"minibatch_size": 100}, 32 * 64, 100),
    ],
)
def test_sizes_follow_from_others(settings: dict[str, int], batch: int, minibatch: int):
    """A batch is what the runners bring in one round, a share a learner; a minibatch holds the longest response."""
    config = make_config("ppo", EXACT, **settings)
    assert (config.train_batch_size_per_learner, config.minibatch_size) == (batch, minibatch)


@pytest.mark.parametrize("learners", [0, 2])
def test_the_learning_rate_over_a_run(learners: int):
    """RLlib's points, warmed up from the first update on; constant where the run's length is unknown."""
    settings = {"num_learners": learners, "num_envs_per_env_runner": 10, "rollout_fragment_length": 20}
    schedule, first = WarmupSchedule(2e-3), 200  # tokens of one round, of all learners together
    assert make_config("ppo", EXACT, lr=schedule, **settings).lr == 2e-3
    config = make_config("ppo", EXACT, lr=schedule, total_timesteps=10_000, **settings)
    assert config.lr == schedule.points(10_000, first)
    assert config.lr[0] == [0, pytest.approx(2e-3 * first / 500)]
    assert make_config("ppo", EXACT, lr=1e-4, total_timesteps=10_000).lr == 1e-4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"algo": "pppo"}, r"unknown algorithm 'pppo'\. Did you mean 'ppo'"),
        ({"algo": "dqn"}, r"unknown algorithm 'dqn'\..* Known: appo, impala, ppo"),
        ({"clip_parm": 0.1}, r"unknown setting of ppo 'clip_parm'\. Did you mean 'clip_param'"),
        ({"env": {"kl_coeff": 0.1}}, r"unknown argument of env_config 'kl_coeff'\. Did you mean 'kl_coef'"),
        ({"env": {"task": "exakt"}}, r"unknown task 'exakt'\. Did you mean 'exact'"),
    ],
)
def test_names_that_are_not_known(arguments: dict[str, Any], message: str):
    env, algo = {**EXACT, **arguments.pop("env", {})}, arguments.pop("algo", "ppo")
    with pytest.raises(UnknownName, match=message):
        make_config(algo, env, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"env": {"autoreset_mode": "SAME_STEP"}}, "RLlib needs autoreset_mode NEXT_STEP, got 'SAME_STEP'"),
        ({"env": {"autoreset_mode": AutoresetMode.SAME_STEP}}, "RLlib needs autoreset_mode NEXT_STEP"),
        ({"batch_mode": "complete_episodes"}, "batch_mode must be 'truncate_episodes', got 'complete_episodes'"),
        ({"minibatch_size": 4}, r"minibatch_size must be at least 5, .* \(max_new_tokens is 5, .* got 4: a minibatch"),
        ({"minibatch_size": 7, "env": {"max_new_tokens": 8}}, "minibatch_size must be at least 8, .* got 7"),
        (
            {"minibatch_size": 3, "rollout_fragment_length": 3},
            "minibatch_size must be at least 4, .* rollout_fragment_length 3",
        ),
        (
            {"minibatch_size": 64, "num_envs_per_env_runner": 4, "rollout_fragment_length": 8},
            "minibatch_size 64 is more than the train_batch_size_per_learner of 32: raise the latter",
        ),
        ({"explore": False}, "explore must be True: a greedy token has no log-probability"),
        ({"algo": "impala", "broadcast_interval": 3}, "broadcast_interval must be 1, got 3"),
        ({"train_batch_size": 512}, "train_batch_size has no effect here: .* train_batch_size_per_learner"),
        ({"clip_rewards": True}, "clip_rewards has no effect here: scale the reward itself"),
        ({"rollout_fragment_length": -1}, "rollout_fragment_length must be a whole number >= 1, got -1"),
        ({"num_epochs": 0}, "num_epochs must be a whole number >= 1, got 0"),
        ({"minibatch_size": "64"}, "minibatch_size must be a whole number >= 1, got '64'"),
        ({"num_env_runners": -1}, "num_env_runners must be a whole number >= 0, got -1"),
        ({"lambda_": 2.0}, "lambda_ must be a number between 0 and 1, got 2.0"),
        ({"actor_critic": {"value_trunks": "x"}}, "unknown argument of actor_critic .* Did you mean 'value_trunk'"),
        ({"lr": tune.loguniform(1e-5, 1e-3)}, r"lr is a search space; .* make_config\(\.\.\.\)\.training\(lr="),
        ({"lr": tune.grid_search([1e-5, 1e-3])}, "lr is a search space"),
        ({"env_runner_cls": None}, "env_runner_cls is what make_config wires"),
        ({"algo": "appo", "use_kl_loss": True}, "use_kl_loss of APPO compares two policies over the whole vocabulary"),
        (
            {"algo": "impala", "num_aggregator_actors_per_learner": 1},
            "num_aggregator_actors_per_learner must be 0: the KL is charged where the learner is",
        ),
        ({"env": {"sampling": {"temprature": 1.0}}}, "sampling takes temperature, top_k and top_p"),
        ({"env": {"max_new_tokens": 0}}, "max_new_tokens must be a whole number >= 1, got 0"),
    ],
)
def test_what_cannot_work_is_refused(arguments: dict[str, Any], message: str):
    env, algo = {**EXACT, **arguments.pop("env", {})}, arguments.pop("algo", "ppo")
    with pytest.raises(ConfigError, match=message):
        make_config(algo, env, **arguments)


@pytest.mark.parametrize("mode", ["NEXT_STEP", AutoresetMode.NEXT_STEP, AutoresetMode.NEXT_STEP.value])
def test_next_step_may_be_said(mode: Any):
    make_config("ppo", {**EXACT, "autoreset_mode": mode})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.training(gamma=0.9), r"gamma was changed to 0\.9 after make_config had wired 1\.0"),
        (lambda config: config.training(lambda_=0.5), r"lambda_ was changed to 0\.5 after make_config had wired 1\.0"),
        (lambda config: config.environment(env_config={"kl_coef": 0.3}), "env_config was changed after make_config"),
        (lambda config: config.env_config.update(kl_mode="log_ratio"), "env_config was changed after make_config"),
        (lambda config: config.training(minibatch_size=2), "minibatch_size must be at least 5"),
        (lambda config: config.env_runners(batch_mode="complete_episodes"), "batch_mode must be 'truncate_episodes'"),
        (
            lambda config: config.env_runners(num_env_runners=2),
            "RLlib refuses this configuration: .* cannot be achieved",
        ),
    ],
)
def test_what_is_changed_afterwards_is_checked_again(change: Callable[[Any], Any], message: str):
    """By the callback at the algorithm's start, with RLlib's own setters used in between."""
    config = make_config("ppo", EXACT)
    check_config(config.copy())
    change(config)

    class Algorithm:
        pass

    algorithm = Algorithm()
    algorithm.config = config.copy()
    with pytest.raises(ConfigError, match=message):
        TextCallbacks().on_algorithm_init(algorithm=algorithm)


def test_rllibs_own_methods_still_work():
    config = make_config("ppo", EXACT).env_runners(num_env_runners=2)
    config.training(lr=1e-5, minibatch_size=8, train_batch_size_per_learner=4096)
    check_config(config)
    assert (config.num_env_runners, config.lr, config.minibatch_size) == (2, 1e-5, 8)


def test_an_entropy_bonus_added_afterwards_is_accepted():
    """Whether the entropy's gradient is needed is known when the update runs, so nothing was left out before."""
    check_config(make_config("ppo", EXACT).training(entropy_coeff=0.1))


@pytest.mark.parametrize("how", ["argument", "tokenizer", "closure", "nested", "task"])
def test_models_are_given_by_name(how: str):
    """A module or a tokenizer anywhere in env_config would be copied and pickled for every process."""
    model, tokenizer = letter_model()

    def scores_with_a_model(prompts: list[str], completions: list[str]) -> list[float]:
        return [float(model.config.vocab_size)] * len(prompts)

    env: dict[str, Any] = {
        "argument": {"model": model, "tokenizer": "embedded"},
        "tokenizer": {"tokenizer": tokenizer},
        "closure": {"reward": scores_with_a_model},
        "nested": {"reward": {"length": "length", "mine": (lambda prompts, completions: [scores_with_a_model], 0.5)}},
        "task": {"task": Task(name="mine", prompts=["a"], reward=steps_forward, model=lambda: (model, tokenizer))},
    }[how]
    name = {"argument": "model", "tokenizer": "tokenizer", "task": "task"}.get(how, "reward")
    kind = "PreTrainedTokenizerFast|TokenizersBackend" if how == "tokenizer" else "LlamaForCausalLM"
    with pytest.raises(
        ConfigError, match=rf"env_config\['{name}'\] holds a ({kind}), .* Give models by name or folder"
    ):
        make_config("ppo", {**EXACT, **env})


def test_what_cannot_be_pickled_is_refused():
    def generator() -> Any:
        yield 1

    running = generator()
    with pytest.raises(ConfigError, match=r"env_config\['reward'\] cannot be sent to other processes: TypeError"):
        make_config("ppo", {**EXACT, "reward": lambda prompts, completions: [next(running)] * len(prompts)})


def only_here(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    return [0.25] * len(prompts)


def test_names_that_this_process_registered_travel_as_objects(monkeypatch: pytest.MonkeyPatch, portable_task: Task):
    """Another process would not know them; built-in names stay names."""
    monkeypatch.setattr(tasks, "_REGISTERED", dict(tasks._REGISTERED))
    monkeypatch.setattr(rewards, "_factories", dict(rewards._factories))
    register_task(dataclasses.replace(portable_task, name="only here"))
    register_reward("only here", lambda: only_here)
    config = make_config("ppo", {"task": "only here", "reward": "only here", "device": "cpu"})
    assert isinstance(config.env_config["task"], Task)
    assert config.env_config["reward"](["a"], ["b"]) == [0.25]
    assert make_config("ppo", {**EXACT, "reward": "length"}).env_config["reward"] == "length"
    assert config.env_config.keys() >= {"kl_mode", "with_reference"}
    # Where nothing is registered, as in another process, the same configuration works.
    monkeypatch.undo()
    runner = TextEnvRunner(config=cloudpickle.loads(cloudpickle.dumps(config)), worker_index=1)
    ended = [episode for episode in runner.sample() if episode.is_terminated]
    assert {episode.get_infos(-1)["score"] for episode in ended} == {0.25}


@pytest.mark.parametrize("algo", ["ppo", "appo", "impala"])
@pytest.mark.parametrize("task", ["exact", "sentiment", "portable"])
def test_a_configuration_is_pickled_without_weights(algo: str, task: str, portable_task: Task):
    """The embedded model has megabytes; a copy passes the check that the original passes."""
    config = make_config(algo, {"task": portable_task if task == "portable" else task, "device": "cpu"})
    data = cloudpickle.dumps(config)
    assert len(data) < 200_000
    for other in (cloudpickle.loads(data), config.copy()):
        check_config(other)
        assert other.env_config.keys() == config.env_config.keys()


@pytest.mark.parametrize("kl_mode", ["log_ratio", "auto", "deferred", "cross_entropy"])
def test_the_environment_gets_log_probs_where_it_charges(kl_mode: str, monkeypatch: pytest.MonkeyPatch):
    """Rows `[token, log_prob]` where it is the log-ratio that is charged; the episode records the ints in any mode."""
    runner = make_runner({"kl_mode": kl_mode})
    native, given = runner.env.unwrapped, []
    step = native.step

    def noting(actions: Any) -> Any:
        given.append(np.array(actions))
        return step(actions)

    monkeypatch.setattr(native, "step", noting)
    episodes = runner.sample()
    with_log_probs = kl_mode in ("log_ratio", "auto")
    assert {(rows.shape, rows.dtype.kind) for rows in given} == {((4, 2), "f") if with_log_probs else ((4,), "i")}
    recorded = [(int(a), float(p)) for e in episodes for a, p in zip(e.get_actions(), _log_probs(e), strict=True)]
    assert all(np.issubdtype(episode.get_actions().dtype, np.integer) for episode in episodes)
    if with_log_probs:
        assert set(recorded) <= {(int(token), float(log_prob)) for rows in given for token, log_prob in rows}
    infos = [episode.get_infos(-1) for episode in episodes if episode.is_terminated]
    assert infos
    assert all(np.isnan(info["kl_sum"]) == (kl_mode == "deferred") for info in infos)
    if with_log_probs:
        assert max(abs(info["kl_sum"]) for info in infos) < 1e-5, "the policy is the reference still"


def _log_probs(episode: Any) -> Any:
    return episode.get_extra_model_outputs(Columns.ACTION_LOGP)


def test_an_adaptive_coefficient_of_the_environment_is_the_one_logged():
    """In log_ratio mode the environment charges and adapts: `objective/kl_coef` is the coefficient in force there."""
    coef = {"value": 0.5, "target": 1e-3, "horizon": 20}
    runner = make_runner({"kl_mode": "log_ratio", "kl_coef": coef}, rollout_fragment_length=40)
    learner = runner.config.build_learner(env=runner.env)
    with torch.no_grad():
        for weight in runner.module.actor_critic.parameters():
            weight.add_(0.1 * torch.randn(weight.shape))
    result = learner.update(episodes=runner.sample())
    controller = runner.env.unwrapped.kl_penalty.controller
    assert isinstance(controller, AdaptiveKL)
    assert controller.value > 0.6, "nothing was adapted"
    logged = float(result[DEFAULT_MODULE_ID]["rlhf"]["objective/kl_coef"].peek())
    assert 0.51 < logged <= controller.value + 1e-9, "neither the episodes' mean nor the newest"


def fails_later(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    if any(len(text) > 1 for text in completions):
        raise RuntimeError("the reward server is gone")
    return [0.0] * len(prompts)


def test_a_failing_reward_is_its_own_error():
    """CHECKS 18: not RLlib's RuntimeError around it; the cause is what was raised, and the runner lives on."""
    runner = make_runner({"reward": fails_later}, rollout_fragment_length=30)
    with pytest.raises(RewardRaised, match="fails_later") as caught:
        runner.sample()
    assert isinstance(caught.value, TextRLError)
    assert str(caught.value.__cause__) == "the reward server is gone"
    assert runner.failure is None, "nobody asked for it remotely"


def test_a_remote_runner_keeps_its_error_for_the_driver():
    """Called as RLlib's driver calls it: an error that can be sent, no end of the process, and sampling can go on."""
    runner = make_runner({"reward": fails_later}, rollout_fragment_length=30)
    with pytest.raises(RuntimeError, match=r"^RewardRaised: .*fails_later"):
        runner.apply(lambda each: each.sample())
    assert isinstance(runner.failure, RewardRaised)
    assert runner.apply(lambda each: each.worker_index) == 0
    assert isinstance(cloudpickle.loads(cloudpickle.dumps(runner.failure)), RewardRaised)


@pytest.mark.parametrize(("healthy", "failures", "raises"), [(2, {2: 1}, False), (1, {}, False), (1, {2: 1}, True)])
def test_the_driver_raises_what_a_runner_keeps(healthy: int, failures: dict[int, int], raises: bool):
    """Where a runner is not healthy, and only for an error of the environment: a killed process is RLlib's to mend."""

    class Group:
        def num_healthy_remote_workers(self) -> int:
            return healthy

        def num_remote_workers(self) -> int:
            return 2

        def foreach_env_runner(self, func: Any, *, healthy_only: bool, **_: Any) -> list[Any]:
            assert not healthy_only, "the one that failed would not be asked"
            runners = [TextEnvRunner.__new__(TextEnvRunner) for _ in range(2)]
            for index, runner in enumerate(runners, 1):
                runner.worker_index = index
                runner.failure = RewardRaised("it failed") if index in failures else None
            return [func(runner) for runner in runners]

    class Algorithm:
        env_runner_group = Group()
        eval_env_runner_group = None

    if not raises:
        TextCallbacks().on_train_result(algorithm=Algorithm(), result={})
        return
    with pytest.raises(RewardRaised, match="it failed") as caught:
        TextCallbacks().on_train_result(algorithm=Algorithm(), result={})
    assert caught.value.__notes__ == ["raised in env runner 2"]


def sampled(runner: Any, fragments: int = 3) -> list[Any]:
    return [
        (episode.get_observations().tolist(), episode.get_rewards().tolist(), _log_probs(episode).tolist())
        for _ in range(fragments)
        for episode in runner.sample()
    ]


def test_the_same_seed_samples_the_same():
    """CHECKS 2 in one process: observations, tokens and log-probabilities, over fragments."""
    first, again, other = (sampled(make_runner(seed=seed)) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_env_runners_answer_prompts_of_their_own(portable_task: Task):
    """Stock, row j + 1 of runner i has the seed of row j of runner i + 1: they would answer the same prompts."""
    prompts = [f"the room {number}" for number in range(200)]
    env = {"task": portable_task, "prompts": prompts}
    seen = {}
    for index in (1, 2):
        runner = make_runner(env, index, num_env_runners=2, num_envs_per_env_runner=16)
        runner.sample()
        seen[index] = [prompt.index for prompt in runner.env.unwrapped._mdp.prompts]
    assert len(set(seen[1]) & set(seen[2])) < 6, seen
    assert sum(one == other for one, other in zip(seen[1][1:], seen[2], strict=False)) < 3
    again = make_runner(env, 1, num_env_runners=2, num_envs_per_env_runner=16)
    again.sample()
    assert [prompt.index for prompt in again.env.unwrapped._mdp.prompts] == seen[1]


@pytest.mark.parametrize("kl_mode", ["deferred", "auto", "cross_entropy"])
def test_random_actions_are_accepted(kl_mode: str):
    """Plain ints without a log-probability, as RLlib draws them to fill buffers."""
    runner = make_runner({"kl_mode": kl_mode})
    episodes = runner.sample(num_timesteps=300, random_actions=True)
    assert sum(map(len, episodes)) >= 300
    assert len({int(token) for episode in episodes for token in episode.get_actions()}) == 6


@pytest.mark.parametrize("kl_mode", ["deferred", "log_ratio"])
def test_greedy_sampling_reports_certainty(kl_mode: str):
    """`explore=False`: log-probability 0 at every token, and the same response to the same prompt."""
    runner = make_runner({"kl_mode": kl_mode})
    episodes = runner.sample(num_episodes=12, explore=False)
    assert all((_log_probs(episode) == 0).all() for episode in episodes)
    responses: dict[Any, set[Any]] = {}
    for episode in episodes:
        info = episode.get_infos(-1)
        responses.setdefault(info["prompt"], set()).add(info["response"])
    assert {len(texts) for texts in responses.values()} == {1}
    assert set(responses) == {"a", "c"}


def test_sampling_settings_reach_module_and_environment():
    runner = make_runner({"sampling": {"temperature": 0.5, "top_k": 2}})
    wanted = SamplingParams(temperature=0.5, top_k=2)
    assert runner.module.actor_critic.sampling == wanted
    assert len({int(token) for e in runner.sample() for token in e.get_actions()}) <= 6
    assert gymnasium.spaces.Discrete(6) == runner.env.single_action_space


def test_only_our_errors_are_unwrapped(monkeypatch: pytest.MonkeyPatch):
    """An error of another kind stays what RLlib made of it."""
    runner = make_runner()

    def broken(actions: Any) -> Any:
        raise KeyError("not ours")

    monkeypatch.setattr(runner.env.unwrapped, "step", broken)
    with pytest.raises(RuntimeError) as caught:
        runner.sample()
    assert isinstance(caught.value.__cause__, KeyError)


def test_of_hundreds_of_settings_the_similar_ones_are_listed():
    with pytest.raises(UnknownName, match=r"\. Did you mean 'num_env_runners'\? \d{3} are known, such as ") as caught:
        make_config("ppo", EXACT, num_env_runner=2)
    assert "num_cpus_per_env_runner" in str(caught.value)
    assert len(str(caught.value)) < 500
