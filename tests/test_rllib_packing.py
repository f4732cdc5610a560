"""The learner connector: what RLlib's stock losses are fed, against plain loops, the plain model and the env itself."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from conftest import quick
from tiny_tokenizer import tiny_tokenizer as make_tokenizer

pytest.importorskip("ray.rllib")

from ray.rllib.algorithms.appo.torch import appo_torch_learner
from ray.rllib.algorithms.impala.torch import impala_torch_learner
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.policy.sample_batch import MultiAgentBatch
from ray.rllib.utils.minibatch_utils import MiniBatchCyclicIterator, ShardEpisodesIterator
from ray.rllib.utils.postprocessing.value_predictions import compute_value_targets

from textrl_agents.rllib import make_config
from textrl_agents.rllib.connectors.batch import ENDS, IDS, STATES
from textrl_agents.rllib.env_runner import TextEnvRunner
from textrl_env import Task
from textrl_env.tasks.built_in.exact import letter_model

EOS = 5  # of task "exact"
SAMPLINGS: list[dict[str, Any]] = [{}, {"temperature": 0.7, "top_k": 3}]


class Wired(NamedTuple):
    """An env runner and a learner in this process, with the same weights."""

    runner: Any
    learner: Any

    @property
    def core(self) -> Any:
        return self.learner.module[DEFAULT_MODULE_ID].unwrapped().actor_critic

    def sync(self) -> None:
        self.runner.module.set_state(self.learner.module[DEFAULT_MODULE_ID].get_state(inference_only=True))

    def batch(self, episodes: Sequence[Any]) -> MultiAgentBatch:
        """As `Learner.update` makes it of episodes."""
        return self.learner._make_batch_if_necessary(training_data=TrainingData(episodes=list(episodes)))

    def columns(self, episodes: Sequence[Any]) -> Any:
        return self.batch(episodes)[DEFAULT_MODULE_ID]


def wire(algo: str = "ppo", task: Task | str = "exact", *, moved: bool = True, **settings: Any) -> Wired:
    """Fragments of three tokens a row, shorter than most responses; a policy that is not the reference any more, with
    a value head that says something."""
    settings = {"num_envs_per_env_runner": 4, "rollout_fragment_length": 3, "seed": 0, **settings}
    config = make_config(algo, {"task": task, "device": "cpu", **settings.pop("env", {})}, **settings)
    runner = TextEnvRunner(config=config, worker_index=0)
    wired = Wired(runner, config.build_learner(env=runner.env))
    wired.learner.shutdown()  # of IMPALA and APPO: the thread that updates; here it is called
    if moved:
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for weight in wired.core.parameters():
                weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
            wired.core.value_head.weight.mul_(5)
        wired.sync()
    return wired


@pytest.fixture
def portable_task(tiny_task: Task, make_model: Callable[..., Any]) -> Task:
    """The tiny task, whose model every process makes for itself."""
    return dataclasses.replace(tiny_task, model=lambda: (make_model("llama"), make_tokenizer()))


def stretch(before: list[int], tokens: list[int], log_probs: list[float], score: float | None) -> SingleAgentEpisode:
    """`tokens` after the ids `before`; ended with `score`, or cut where that is None."""
    ids = before + tokens
    observations = [
        np.array(ids[:length] + [-1] * (6 - length), dtype=np.int64) for length in range(len(before), len(ids) + 1)
    ]
    info: dict[str, Any] = {"score": score, "score_parts": {}, "finish_reason": "eos", "kl_sum": np.nan, "kl_coef": 0.5}
    return SingleAgentEpisode(
        observations=observations,
        actions=[np.int64(token) for token in tokens],
        rewards=[0.0] * (len(tokens) - 1) + [score or 0.0],
        infos=[{}] * len(tokens) + [{} if score is None else info],
        terminated=score is not None,
        extra_model_outputs={Columns.ACTION_LOGP: [np.float32(value) for value in log_probs]},
        len_lookback_buffer=0,
    ).to_numpy()


def states_of(episode: Any) -> list[np.ndarray]:
    """Ids of each state of a stretch, the one after its last token too, as the environment showed them."""
    return [ids[ids >= 0] for ids in np.asarray(episode.get_observations())]


@torch.no_grad()
def value_by_plain_model(core: Any, ids: np.ndarray) -> float:
    """One prefix alone, through Llama's own body."""
    hidden = core.model.model(input_ids=torch.from_numpy(ids)[None]).last_hidden_state[0, -1]
    return float(hidden @ core.value_head.weight[0] + core.value_head.bias[0])


@torch.no_grad()
def kl_by_plain_model(episode: Any, reference: Any) -> np.ndarray:
    """k1 of each token, by the plain model on the whole sequence."""
    ids = torch.from_numpy(states_of(episode)[-1])
    log_probs = reference(input_ids=ids[None]).logits[0].double().log_softmax(-1)
    ref = log_probs[torch.arange(len(ids) - 1), ids[1:]].numpy()[-len(episode) :]
    return np.asarray(episode.get_extra_model_outputs(Columns.ACTION_LOGP), dtype=np.float64) - ref


def test_columns_by_hand():
    """An ended episode, one that is cut, and one that began in an earlier batch."""
    wired = wire()
    columns = wired.columns(
        [
            stretch([0], [1, 2, EOS], [-1.0, -2.0, -3.0], score=2.0),
            stretch([2], [3, 3], [-4.0, -5.0], score=None),
            stretch([2, 4, 4], [0, 1], [-6.0, -7.0], score=1.0),
        ]
    )
    assert columns[Columns.SEQ_LENS].tolist() == [3, 2, 2]
    assert columns[Columns.LOSS_MASK].tolist() == [[True] * 3, [True, True, False], [True, True, False]]
    assert columns[Columns.ACTIONS].tolist() == [[1, 2, EOS], [3, 3, 0], [0, 1, 0]]
    assert columns[Columns.ACTION_LOGP].tolist() == [[-1, -2, -3], [-4, -5, 0], [-6, -7, 0]]
    assert columns[Columns.ACTION_DIST_INPUTS][..., 0].tolist() == columns[Columns.ACTION_LOGP].tolist()
    assert columns[Columns.OBS][IDS].tolist() == [[0, 1, 2, EOS], [2, 3, 3, 0], [2, 4, 4, 0]]
    assert columns[Columns.OBS][ENDS].tolist() == [[0, 1, 2], [0, 1, 0], [2, 3, 0]]
    assert columns[Columns.OBS][STATES].tolist() == [3, 2, 2]
    assert not columns[Columns.ADVANTAGES][~columns[Columns.LOSS_MASK]].any()
    assert len(columns) == 7, "RLlib counts tokens"


@pytest.mark.parametrize("fragment", [3, 14])
def test_advantages_and_value_targets_by_plain_loops(fragment: int):
    """GAE over each stretch, backwards by hand: bootstrapped where it was cut, 0 after an end; values by the plain
    model on each prefix, KL by the plain reference. CHECKS 28: exactly mean 0 and std 1 over real tokens."""
    wired = wire(rollout_fragment_length=fragment, gamma=0.9, lambda_=0.8)
    reference = letter_model()[0].eval()
    wired.runner.sample()
    episodes = wired.runner.sample()
    targets, advantages = [], []
    for episode in episodes:
        values = [value_by_plain_model(wired.core, ids) for ids in states_of(episode)]
        if episode.is_terminated:
            values[-1] = 0.0
        rewards = np.asarray(episode.get_rewards()) - 0.5 * kl_by_plain_model(episode, reference)
        gains, gain = [], 0.0
        for step in reversed(range(len(episode))):
            gain = rewards[step] + 0.9 * values[step + 1] - values[step] + 0.9 * 0.8 * gain
            gains.append(gain)
        advantages += gains[::-1]
        targets += (np.array(gains[::-1]) + values[:-1]).tolist()
    columns = wired.columns(episodes)
    mask = columns[Columns.LOSS_MASK]
    np.testing.assert_allclose(columns[Columns.VALUE_TARGETS][mask], targets, atol=1e-5)
    got = columns[Columns.ADVANTAGES][mask].double()
    assert float(got.mean()) == pytest.approx(0, abs=1e-6)
    assert float(got.std()) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(got, (advantages - np.mean(advantages)) / np.std(advantages, ddof=1), atol=1e-4)
    cut = [not episode.is_terminated for episode in episodes]
    assert any(cut), "nothing to bootstrap"
    assert not all(cut)
    assert min(abs(value_by_plain_model(wired.core, states_of(e)[-1])) for e in episodes) > 1e-3
    assert any(len(states_of(e)[0]) > 1 for e in episodes), "no stretch begins in mid-episode"


def test_what_stands_in_the_padding_does_not_matter():
    """CHECKS 29: the stock PPO loss and its gradient, with anything in the columns beyond a row's end."""
    wired = wire(rollout_fragment_length=14, entropy_coeff=0.01, kl_coeff=0.1)
    batch = wired.batch(wired.runner.sample())
    columns = batch[DEFAULT_MODULE_ID]
    padding = ~columns[Columns.LOSS_MASK]
    assert padding.any()

    def loss_and_gradients() -> tuple[torch.Tensor, list[torch.Tensor]]:
        wired.core.zero_grad()
        fwd_out = wired.learner.module.forward_train(batch.policy_batches)
        losses = wired.learner.compute_losses(fwd_out=fwd_out, batch=batch.policy_batches)
        loss = losses[DEFAULT_MODULE_ID]
        loss.backward()
        return loss.detach(), [weight.grad.clone() for weight in wired.core.parameters()]

    before = loss_and_gradients()
    for name in (Columns.ACTION_LOGP, Columns.ADVANTAGES, Columns.VALUE_TARGETS, Columns.ACTION_DIST_INPUTS):
        columns[name][padding] = 3.0
    columns[Columns.ACTIONS][padding] = 4
    ids, used = columns[Columns.OBS][IDS], columns[Columns.OBS][ENDS].max(dim=1).values + 1
    ids[torch.arange(ids.shape[1]) >= used[:, None]] = 3
    torch.testing.assert_close(loss_and_gradients(), before, atol=1e-6, rtol=1e-5)
    columns[Columns.ADVANTAGES][~padding] += 1.0
    assert abs(loss_and_gradients()[0] - before[0]) > 1e-3, "the loss is blind to its columns"


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("estimator", quick(["k3"], ["k1", "k3"]))
def test_deferred_charges_what_the_environment_pays_stepwise(
    estimator: str, sampling: dict[str, Any], portable_task: Task
):
    """CHECKS 4 through RLlib: the same tokens, the same reward at each, to 1e-5, over fragments that cut responses.
    With a discount of 0 a token's value target is its reward."""
    env = {"kl_estimator": estimator, "sampling": sampling, "kl_coef": 0.2}
    seen = []
    for kl_mode in ("deferred", "log_ratio"):
        wired = wire(task=portable_task, gamma=0.0, env={**env, "kl_mode": kl_mode})
        rows = []
        for _ in range(4):
            episodes = wired.runner.sample()
            columns = wired.columns(episodes)
            targets = columns[Columns.VALUE_TARGETS][columns[Columns.LOSS_MASK]]
            paid = np.concatenate([episode.get_rewards() for episode in episodes])
            rows.append((columns[Columns.ACTIONS], targets.numpy(), paid))
        seen.append(rows)
    for (actions, charged, scores), (other_actions, stepwise, paid) in zip(*seen, strict=True):
        assert actions.tolist() == other_actions.tolist()
        np.testing.assert_allclose(charged, paid, atol=1e-5)
        np.testing.assert_allclose(stepwise, paid, atol=1e-6, err_msg="charged twice")
        assert np.abs(scores - paid).max() > 1e-3, "no KL: shows nothing"


def ratios(module: Any, columns: Any) -> torch.Tensor:
    """pi / pi_old of the real tokens, as the loss computes it."""
    with torch.no_grad():
        out = module.forward_train(columns)
    now = module.get_train_action_dist_cls().from_logits(out[Columns.ACTION_DIST_INPUTS])
    ratio = (now.logp(columns[Columns.ACTIONS]) - columns[Columns.ACTION_LOGP]).exp()
    return ratio[columns[Columns.LOSS_MASK]]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_ratio_is_1_at_the_first_minibatch(sampling: dict[str, Any], portable_task: Task):
    """CHECKS 26 over updates that change the weights in mid-episode: what follows is sampled from the new ones, with no
    cached key of the old. In every minibatch that RLlib's own iterator slices from a shuffled batch, too."""
    wired = wire(task=portable_task, lr=1e-2, env={"sampling": sampling})
    module = wired.learner.module[DEFAULT_MODULE_ID]
    crossing = 0
    for _ in range(4):
        batch = wired.batch(wired.runner.sample())
        columns = batch[DEFAULT_MODULE_ID]
        whole = sorted(columns[Columns.ACTION_LOGP][columns[Columns.LOSS_MASK]].tolist())
        one = torch.ones(len(whole))
        torch.testing.assert_close(ratios(module, columns), one, atol=1e-5, rtol=0)
        sliced = wired.learner._set_slicing_by_batch_id(copy.copy(batch), value=True)
        minibatches = [
            minibatch[DEFAULT_MODULE_ID]
            for minibatch in MiniBatchCyclicIterator(sliced, num_epochs=2, minibatch_size=8)
        ]
        assert len(minibatches) > 1
        for minibatch in minibatches:
            ratio = ratios(module, minibatch)
            torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-5, rtol=0)
        covered = torch.cat([m[Columns.ACTION_LOGP][m[Columns.LOSS_MASK]] for m in minibatches]).tolist()
        assert set(whole) <= set(covered)
        wired.learner._set_slicing_by_batch_id(sliced, value=False)
        wired.learner.update(batch=batch, num_epochs=2, minibatch_size=8, shuffle_batch_per_epoch=True)
        assert (ratios(module, columns) - one).abs().max() > 1e-2, "the update changed nothing"
        wired.sync()
        crossing += sum(episode.t > 0 for episode in wired.runner._ongoing_episodes)
    assert crossing > 4, "no update fell in the middle of an episode"


def test_minibatches_are_shuffled_between_epochs():
    """By the configuration as it is: RLlib's default is not to shuffle, PPO's is, and packed rows can be."""
    wired = wire(num_envs_per_env_runner=16)
    assert wired.learner.config.shuffle_batch_per_epoch
    batch = wired.batch(wired.runner.sample())
    rows = batch[DEFAULT_MODULE_ID][Columns.ACTION_LOGP][:, 0].tolist()
    sliced = wired.learner._set_slicing_by_batch_id(batch, value=True)
    minibatches = MiniBatchCyclicIterator(
        sliced, num_epochs=3, minibatch_size=8, shuffle_batch_per_epoch=wired.learner.config.shuffle_batch_per_epoch
    )
    order = [
        first for minibatch in minibatches for first in minibatch[DEFAULT_MODULE_ID][Columns.ACTION_LOGP][:, 0].tolist()
    ]
    first, second = order[: len(rows)], order[len(rows) : 2 * len(rows)]
    assert sorted(first) == sorted(second) == sorted(rows)
    assert first != second


def test_stretches_join_to_whole_responses_and_resets_are_no_transitions():
    """CHECKS 17 and 29: what the rows hold, joined over fragments, is each episode's prompt and response, once."""
    wired = wire()
    joined: dict[str, list[int]] = {}
    ended: dict[str, dict[str, Any]] = {}
    for _ in range(8):
        episodes = wired.runner.sample()
        columns = wired.columns(episodes)
        counts = columns[Columns.SEQ_LENS].tolist()
        assert sum(counts) == int(columns[Columns.LOSS_MASK].sum()) == sum(map(len, episodes))
        for row, (episode, count) in enumerate(zip(episodes, counts, strict=True)):
            first = int(columns[Columns.OBS][ENDS][row, 0]) + 1
            before = columns[Columns.OBS][IDS][row, :first].tolist()
            joined.setdefault(episode.id_, before)
            assert before == joined[episode.id_], "the row does not go on where the last one ended"
            joined[episode.id_] += columns[Columns.ACTIONS][row, :count].tolist()
            if episode.is_terminated:
                ended[episode.id_] = episode.get_infos(-1)
    assert len(ended) > 15
    letters = "abcde"
    for name, info in ended.items():
        prompt, *response = joined[name]
        assert letters[prompt] == info["prompt"]
        assert len(response) == info["episode_length"]
        assert "".join(letters[token] for token in response if token != EOS) == info["response"]
        assert (response[-1] == EOS) == (info["finish_reason"] == "eos")


def test_episodes_split_between_learners_charge_the_same():
    """RLlib's own sharder cuts episodes anywhere: each token keeps its reward, and no token is lost or doubled."""
    wired = wire(rollout_fragment_length=14, gamma=0.0)
    episodes = wired.runner.sample()

    def tokens(columns: Any) -> list[tuple[float, ...]]:
        mask = columns[Columns.LOSS_MASK]
        names = (Columns.ACTIONS, Columns.ACTION_LOGP, Columns.VALUE_TARGETS)
        return [tuple(entry) for entry in torch.stack([columns[name][mask].double() for name in names], -1).tolist()]

    whole = tokens(wired.columns(episodes))
    shards = list(ShardEpisodesIterator(episodes, 5, len_lookback_buffer=0))
    assert sum(map(len, shards)) > len(episodes), "none was cut"
    parts = [entry for shard in shards for entry in tokens(wired.columns(shard))]
    np.testing.assert_allclose(sorted(parts), sorted(whole), atol=1e-5)


def test_what_is_trained_is_what_is_logged():
    """CHECKS 7: the KL, the scores and the penalised return of the episodes that ended, over fragments; by the plain
    reference. Nothing of an episode that fragments cut is left out."""
    wired = wire(lr=0.0)
    reference = letter_model()[0].eval()
    kls: dict[str, float] = {}
    returns: list[float] = []
    for _ in range(6):
        episodes = wired.runner.sample()
        ended = []
        for episode in episodes:
            kls[episode.id_] = kls.get(episode.id_, 0.0) + kl_by_plain_model(episode, reference).sum()
            ended += [(episode.get_infos(-1), kls[episode.id_])] if episode.is_terminated else []
        returns += [info["score"] - 0.5 * kl for info, kl in ended]
        result = wired.learner.update(episodes=episodes)[DEFAULT_MODULE_ID]["rlhf"]
        logged = {name: stats.peek() for name, stats in result.items()}
        assert logged["rollout/episodes"] == len(ended)
        if not ended:
            continue
        assert logged["objective/kl"] == pytest.approx(np.mean([kl for _, kl in ended]), abs=1e-5)
        assert logged["objective/scores"] == pytest.approx(np.mean([info["score"] for info, _ in ended]))
        assert logged["objective/rlhf_reward"] == pytest.approx(np.mean(returns[-len(ended) :]), abs=1e-5)
        assert logged["rollout/ep_rew_mean"] == pytest.approx(np.mean(returns), abs=1e-5)
        assert logged["objective/kl_coef"] == 0.5
    assert len(returns) > 8
    assert np.abs(list(kls.values())).max() > 0.05


def vtrace_seen(wired: Wired, batch: MultiAgentBatch, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Values that the stock loss gives to the stock V-trace, and targets and advantages that it gets, [B, W]."""
    seen: list[Any] = []
    stock = impala_torch_learner.vtrace_torch

    def noting(**arguments: Any) -> Any:
        result = stock(**arguments)
        seen.append((arguments["values"].detach(), *result))
        return result

    with monkeypatch.context() as patch:
        for module in (impala_torch_learner, appo_torch_learner):
            patch.setattr(module, "vtrace_torch", noting)
        fwd_out = wired.learner.module.forward_train(batch.policy_batches)
        wired.learner.compute_losses(fwd_out=fwd_out, batch=batch.policy_batches)
    (arrays,) = seen
    return [array.T.numpy() for array in arrays]


@pytest.mark.parametrize(("fragment", "limit"), quick([(14, 2)], [(3, None), (14, None), (14, 2)]))
@pytest.mark.parametrize("algo", ["impala", "appo"])
def test_vtrace_targets_are_on_policy_returns(
    algo: str, fragment: int, limit: int | None, monkeypatch: pytest.MonkeyPatch
):
    """At equal policies V-trace is the lambda = 1 return: nothing after an end, and after a cut the value of the state
    there, which is why it stands as the reward of the extra column. A time limit cuts as a fragment's end does."""
    env = {} if limit is None else {"max_episode_steps": limit}
    wired = wire(algo, env=env, rollout_fragment_length=fragment, gamma=0.9)
    if algo == "appo":
        wired.learner.module[DEFAULT_MODULE_ID].target.load_state_dict(wired.core.state_dict())
    reference = letter_model()[0].eval()
    wired.runner.sample()
    episodes = wired.runner.sample()
    batch = wired.batch(episodes)
    columns = batch[DEFAULT_MODULE_ID]
    values_given, targets, advantages = vtrace_seen(wired, batch, monkeypatch)
    assert columns[Columns.LOSS_MASK].sum() == sum(map(len, episodes)) == columns[Columns.SEQ_LENS].sum()
    cut = np.array([not episode.is_terminated for episode in episodes])
    assert cut.any()
    assert not cut.all()
    if limit is not None:
        cut_off = [episode for episode in episodes if episode.is_truncated and not episode.is_terminated]
        assert len(cut_off) > 4
        assert all(np.asarray(episode.get_rewards())[-1] == 0 for episode in cut_off), "no score is paid there"
    for row, episode in enumerate(episodes):
        values = [value_by_plain_model(wired.core, ids) for ids in states_of(episode)]
        rewards = np.asarray(episode.get_rewards()) - 0.5 * kl_by_plain_model(episode, reference)
        gain = values[-1] = values[-1] if cut[row] else 0.0
        np.testing.assert_allclose(values_given[row, : len(values)], values, rtol=1e-5, atol=1e-5)
        ends = np.flatnonzero(columns[Columns.TERMINATEDS][row]).tolist()
        assert ends == ([] if cut[row] else [len(episode) - 1])
        for step in reversed(range(len(episode))):
            gain = rewards[step] + 0.9 * gain
            assert targets[row, step] == pytest.approx(gain, abs=1e-4), (row, step)
            assert advantages[row, step] == pytest.approx(gain - values[step], abs=1e-4), (row, step)
    extra = torch.arange(columns[Columns.REWARDS].shape[1]) == columns[Columns.SEQ_LENS][:, None]
    assert (columns[Columns.REWARDS][extra][torch.from_numpy(cut)].abs() > 1e-3).all()
    assert columns[Columns.REWARDS][extra][torch.from_numpy(~cut)].eq(0).all()
    columns[Columns.REWARDS][extra] = 0.0
    _, without, _ = vtrace_seen(wired, batch, monkeypatch)
    last = np.array([len(episode) - 1 for episode in episodes])
    difference = np.abs(targets - without)[np.arange(len(last)), last]
    assert (difference[cut] > 1e-3).all(), "the extra column's reward is not what bootstraps"
    assert (difference[~cut] < 1e-6).all()


def test_gae_of_rllib_does_not_cross_rows():
    """What the packing relies on: the value in the place after a cut bootstraps and is no step of its own."""
    values, rewards = np.array([1.0, 2.0, 4.0, 8.0], dtype=np.float32), np.array([1.0, 0.0, 1.0, 0.0])
    ends = np.array([True, False, False, False]), np.array([False, False, True, False])
    targets = compute_value_targets(values, rewards, *ends, 0.5, 1.0)
    assert targets[[0, 2]].tolist() == [1.0, 1.0 + 0.5 * 8.0]


def digest(module: torch.nn.Module) -> str:
    state = module.state_dict()
    return hashlib.sha256(b"".join(state[name].numpy().tobytes() for name in sorted(state))).hexdigest()


@pytest.mark.parametrize("lr", [0.0, 1e-3])
@pytest.mark.parametrize("algo", ["ppo", "appo", "impala"])
def test_one_update_changes_the_policy_alone(algo: str, lr: float, portable_task: Task):
    """CHECKS 27 and 30: the reference's and the reward model's bytes stay, and with lr = 0 the policy's too."""
    wired = wire(algo, portable_task, moved=False, lr=lr, env={"reward": "embedded"})
    wired.columns(wired.runner.sample())  # the reference is loaded at the first batch
    (connector,) = wired.learner._learner_connector.connectors
    reference, reward = connector.accounts.penalty.reference.lm.model, wired.runner.env.unwrapped.rules.reward.model
    modules = (wired.core.model, wired.core.value_head, reference, reward)
    before = [digest(module) for module in modules]
    assert before[0] == before[2], "the policy starts as the reference"
    Learner.update(wired.learner, episodes=wired.runner.sample())
    changed = [one != digest(module) for one, module in zip(before, modules, strict=True)]
    assert changed == [lr > 0, lr > 0, False, False]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_an_update_of_an_adapter_leaves_the_reference(portable_task: Task):
    """CHECKS 27 with LoRA: policy and reference share their weights, and only the adapter is trained."""
    pytest.importorskip("peft")
    wired = wire(task=portable_task, moved=False, lr=1e-2, env={"lora": {"r": 4}})
    wired.columns(wired.runner.sample())
    (connector,) = wired.learner._learner_connector.connectors
    reference, core = connector.accounts.penalty.reference, wired.core
    assert reference.lm.model is core.model
    ids = torch.tensor([[0, 9, 40, 7]])

    def logits() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            return reference.lm.project(reference.lm.hidden(ids)), core.lm.project(core.lm.hidden(ids))

    before = logits()
    torch.testing.assert_close(before[0], before[1], atol=1e-6, rtol=0)
    for _ in range(3):
        wired.learner.update(episodes=wired.runner.sample())
    after = logits()
    torch.testing.assert_close(after[0], before[0], atol=0, rtol=0)
    assert (after[1] - before[1]).abs().max() > 1e-3
