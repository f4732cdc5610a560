"""Episodes of several turns: what is appended, paid, limited, reported and restored.

The oracle plays the same turn environment by hand.
"""

from __future__ import annotations

import copy
import functools
import json
import pickle
from typing import Any

import gymnasium
import numpy as np
import pytest
from counting_game import CountingGame
from gymnasium.vector import AutoresetMode

from textrl_env import TextGenEnv, TextGenVectorEnv, TokenAction
from textrl_env.errors import ConfigError, EmptyPrompt, PromptError, PromptTooLong
from textrl_env.tasks import Task
from textrl_env.text.tokenization import encode_chat
from textrl_env.trajectory import Paid
from textrl_env.turns import PlainBridge

DEFERRED: dict[str, Any] = {"kl_mode": "deferred"}  # runs no model
LIMITS: dict[str, Any] = {"max_prompt_tokens": 32, "max_new_tokens": 96, "max_turn_tokens": 5}


@pytest.fixture(scope="module")
def make_task(make_model: Any, tiny_tokenizer: Any) -> Any:
    model = make_model("llama")

    def make(turns: Any = CountingGame, **given: Any) -> Task:
        arguments = {"model": lambda: (model, tiny_tokenizer), "kl_coef": 0.1, **LIMITS, **given}
        return Task("count", turns=turns, **arguments)

    return make


def tokens_of(rng: np.random.Generator, count: int) -> np.ndarray:
    """Ordinary tokens, and now and then an end of turn (3) or EOS (1)."""
    tokens = rng.integers(4, 300, count)
    ends = rng.random(count)
    return np.where(ends < 0.15, 3, np.where(ends < 0.25, 1, tokens))


def play(env: TextGenEnv, seed: int, rng: np.random.Generator, **options: Any) -> tuple[list[Any], list[Any]]:
    """Observations and (reward, info) of one episode of random tokens."""
    observation, _ = env.reset(seed=seed, **options)
    seen, paid, over = [observation], [], False
    while not over:
        action = TokenAction(int(tokens_of(rng, 1)[0]), float(-rng.random()))
        observation, reward, terminated, truncated, info = env.step(action)
        seen.append(observation)
        paid.append((reward, info))
        over = terminated or truncated
    return seen, paid


def bridge_ids(tokenizer: Any, reply: str) -> list[int]:
    """What stands between the end of an answer and the next one."""
    said = f"\n<|im_start|>user\n{reply}<|im_end|>\n<|im_start|>assistant\n"
    return tokenizer(said, add_special_tokens=False).input_ids


def text_of(tokenizer: Any, ids: Any) -> str:
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def test_an_episode_is_the_dialogue_that_is_played_by_hand(make_task: Any, tiny_tokenizer: Any):
    env = TextGenEnv(make_task())
    rng = np.random.default_rng(0)
    for seed in range(6):
        seen, paid = play(env, seed, rng)
        game = CountingGame()
        prompt = seen[0][seen[0] >= 0]
        info = paid[-1][1]
        game.reset(next(s for s in range(10**6) if CountingGame().reset(s)[0] == info["prompt"][0]["content"]))
        assert prompt.tolist() == encode_chat(tiny_tokenizer, info["prompt"])
        turn: list[int] = []
        scores, place = [], len(prompt)
        for (reward, step), before, after in zip(paid, seen, seen[1:], strict=False):
            ids = after[after >= 0]
            assert ids[: (before >= 0).sum()].tolist() == before[before >= 0].tolist()
            turn.append(int(ids[place]))
            cost = env.kl_penalty.coef * step["kl"]
            ends = turn[-1] in (1, 3) or len(turn) == 5
            assert ends == ("turn" in step)
            if not ends:
                assert len(ids) == place + 1
                assert reward == pytest.approx(-cost, abs=1e-9)
            else:
                reply, score, over, _, _ = game.step(text_of(tiny_tokenizer, turn))
                scores.append(score)
                assert reward == pytest.approx(score - cost, abs=1e-9)
                assert (step["turn"]["reply"], step["turn"]["score"]) == (reply, score)
                closing = [] if turn[-1] == 3 else [3]
                assert ids[place + 1 :].tolist() == ([] if over else closing + bridge_ids(tiny_tokenizer, reply))
                turn = []
            place = len(ids)
        assert info["finish_reason"] == "env"
        assert info["score"] == pytest.approx(sum(scores), abs=1e-9)
        assert [each["score"] for each in info["turns"]] == scores
        assert info["score_parts"]["turns"] == info["score"]
        assert info["score_parts"]["vowels"] == pytest.approx(
            sum(each["score_parts"]["vowels"] for each in info["turns"])
        )
        assert info["success"] == (sum(len(each["action"]) for each in info["turns"]) > game.number)
        assert info["episode_length"] == sum(each["tokens"] for each in info["turns"]) == len(paid)
        total = sum(reward for reward, _ in paid)
        assert total == pytest.approx(info["score"] - info["kl_coef"] * info["kl_sum"], abs=1e-5)
        assert info["episode_return"] == pytest.approx(total, abs=1e-9)


@pytest.mark.parametrize("mode", list(AutoresetMode)[:2])
@pytest.mark.parametrize("truncates", [False, True])
def test_single_vector_and_sync_environments_agree(make_task: Any, mode: AutoresetMode, truncates: bool):
    """The same seeds and actions give the same observations, rewards and infos in every row."""
    task = make_task(functools.partial(CountingGame, turns=2, truncates=truncates))
    vector = TextGenVectorEnv(3, task, autoreset_mode=mode)
    sync = gymnasium.vector.SyncVectorEnv([lambda: TextGenEnv(task)] * 3, autoreset_mode=mode)
    rng = np.random.default_rng(1)
    np.testing.assert_array_equal(vector.reset(seed=5)[0], sync.reset(seed=5)[0])
    ended = 0
    for _ in range(28):
        actions = np.stack([tokens_of(rng, 3), -rng.random(3)], axis=1)
        got, wanted = vector.step(actions), sync.step(actions)
        for place in range(4):
            np.testing.assert_allclose(got[place], wanted[place], atol=1e-6)
        assert got[3].any() <= truncates
        ended += (got[2] | got[3]).sum()
        for infos in (got[4], wanted[4]):
            infos.pop("_ref_log_prob", None)
        for key in ("turn", "turns", "final_info"):
            assert (key in got[4]) == (key in wanted[4]), key
        if "turn" in got[4]:
            np.testing.assert_array_equal(got[4]["_turn"], wanted[4]["_turn"])
            assert got[4]["turn"]["reply"].tolist() == wanted[4]["turn"]["reply"].tolist()
        ends = [each[4].get("final_info", each[4]) for each in (got, wanted)]
        assert ("turns" in ends[0]) == ("turns" in ends[1])
        if "turns" in ends[0]:
            assert ends[0]["turns"].tolist() == ends[1]["turns"].tolist()
    assert ended > 4


def test_a_time_limit_around_it(make_task: Any):
    """The native one of the vector environment is Gymnasium's around the single one, at a turn's end too."""
    for limit in (3, 5, 6):
        vector = TextGenVectorEnv(1, make_task(), autoreset_mode="NEXT_STEP", max_episode_steps=limit, **DEFERRED)
        single = gymnasium.wrappers.TimeLimit(TextGenEnv(make_task(), **DEFERRED), limit)
        rng = np.random.default_rng(limit)
        np.testing.assert_array_equal(vector.reset(seed=2)[0][0], single.reset(seed=2)[0])
        over = cut = 0
        for _ in range(40):
            (token,) = tokens_of(rng, 1)
            got = vector.step(np.array([token]))
            if over:
                np.testing.assert_array_equal(got[0][0], single.reset()[0])
                over = 0
                continue
            wanted = single.step(int(token))
            np.testing.assert_array_equal(got[0][0], wanted[0])
            assert [each[0] for each in got[1:4]] == list(wanted[1:4])
            over, cut = wanted[2] or wanted[3], cut + wanted[3]
        assert cut > 2


def test_limits_of_a_turn_of_the_turns_and_of_the_context(make_task: Any):
    rng = np.random.default_rng(0)

    def reasons(**given: Any) -> list[dict[str, Any]]:
        env = TextGenEnv(make_task(functools.partial(CountingGame, turns=100), **given), **DEFERRED)
        return [play(env, seed, rng)[1][-1][1] for seed in range(6)]

    for info in reasons(max_turns=2):
        assert (info["finish_reason"], len(info["turns"])) == ("turns", 2)
        assert all(each["tokens"] <= 5 for each in info["turns"])
    ends = {each["finish_reason"] for info in reasons(max_turns=2) for each in info["turns"]}
    assert ends <= {"eos", "length"}
    for info in reasons(max_turns=50):
        assert info["finish_reason"] == "length"
        assert 1 < len(info["turns"]) < 50
        assert info["score"] == pytest.approx(sum(each["score"] for each in info["turns"]))
    # A turn that fills the context is judged like any other.
    for info in reasons(max_turn_tokens=96):
        assert info["finish_reason"] == "length"
        assert info["turns"][-1]["score"] == len(info["turns"][-1]["action"]) / 100


def test_the_context_never_overflows_and_never_ends_too_early(make_task: Any, tiny_tokenizer: Any):
    """Where an episode goes on, a token fits; where it ends for want of room, none would have."""
    early = 0
    for limit in range(18, 60, 2):
        env = TextGenEnv(make_task(functools.partial(CountingGame, turns=100), max_new_tokens=limit), **DEFERRED)
        seen, paid = play(env, 0, np.random.default_rng(limit))
        start = (seen[0] >= 0).sum()
        assert all((each >= 0).sum() - start < limit for each in seen[:-1])
        assert (seen[-1] >= 0).sum() - start <= limit
        info = paid[-1][1]
        last = info["turns"][-1]
        assert info["finish_reason"] == "length"
        ids = seen[-1][seen[-1] >= 0].tolist()
        bridge = (ids[-1] != 3) + len(bridge_ids(tiny_tokenizer, last["reply"]))
        room = limit - (len(ids) - start)  # tokens behind the newest
        assert room <= bridge
        early += room > 0
    assert early > 3


def test_a_truncation_pays_the_turn_and_leaves_a_state_to_bootstrap_from(make_task: Any, tiny_tokenizer: Any):
    env = TextGenEnv(make_task(functools.partial(CountingGame, turns=1, truncates=True)))
    env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step(TokenAction(3, -1.0))
    assert (terminated, truncated) == (False, True)
    assert "finish_reason" not in info
    assert reward == pytest.approx(-env.kl_penalty.coef * info["kl"])
    assert tiny_tokenizer.decode(observation[observation >= 0]).endswith("<|im_start|>assistant\n")


def test_a_reward_is_added_and_hears_the_dialogue(make_task: Any):
    heard: list[Any] = []

    def judged(prompts: Any, completions: Any, finish_reason: Any, **columns: Any) -> list[float]:
        heard.extend(zip(prompts, completions, finish_reason, columns["seed"], strict=True))
        return [10.0] * len(prompts)

    for mode in ("stepwise", "deferred"):
        heard.clear()
        env = TextGenEnv(make_task(reward=judged), score_mode=mode, **DEFERRED)
        _, paid = play_plain(env, 3)
        info = paid[-1][1]
        if mode == "deferred":
            assert np.isnan(info["score"])
            (episode,) = env.settle_scores()
            info = episode.info()
        turns = sum(each["score"] for each in info["turns"])
        assert info["score"] == pytest.approx(10 + turns)
        assert info["score_parts"]["turns"] == pytest.approx(turns)
        ((prompt, completion, reason, _),) = heard
        assert (prompt, reason) == (info["prompt"], "env")
        said = [{"role": "assistant", "content": each["action"]} for each in info["turns"]]
        assert completion[::2] == said
        assert completion[1::2] == [{"role": "user", "content": each["reply"]} for each in info["turns"][:-1]]


def play_plain(env: TextGenEnv, seed: int) -> tuple[list[Any], list[Any]]:
    rng = np.random.default_rng(seed)
    env.reset(seed=seed)
    paid, over = [], False
    while not over:
        _, reward, terminated, truncated, info = env.step(int(tokens_of(rng, 1)[0]))
        paid.append((reward, info))
        over = terminated or truncated
    return [], paid


def test_parts_of_equal_names_are_told_apart():
    paid = Paid(1.5, {"turns": 1.5, "tone": 0.5})
    assert paid.with_parts({"tone": 2.0, "length": 3.0}) == {
        "tone": 2.0,
        "length": 3.0,
        "turns": 1.5,
        "turns/tone": 0.5,
    }


def test_an_opening_without_a_token_is_refused(make_task: Any):
    class Mute(PlainBridge):
        def prompt(self, messages: Any) -> list[int]:
            return []

    with pytest.raises(EmptyPrompt, match="'CountingGame' began an episode with 'Number"):
        TextGenEnv(make_task(bridge=Mute), **DEFERRED).reset()


def test_a_bridge_that_gives_no_ids_is_refused(make_task: Any):
    class Wrong(PlainBridge):
        def extend(self, ids: Any, messages: Any) -> Any:
            return [10**6]

    env = TextGenEnv(make_task(bridge=Wrong), **DEFERRED)
    env.reset()
    with pytest.raises(ConfigError, match=r"extend\(\) gave \[1000000\]; expected a list of token ids in \[0, "):
        env.step(3)


def test_plain_text_where_no_chat_is_wanted(make_task: Any, tiny_tokenizer: Any):
    task = make_task(bridge=functools.partial(PlainBridge, before=" -> ", after=" "), stop=("x",))
    env = TextGenEnv(task, **DEFERRED)
    env.reset(seed=0)
    for text in ("ab", "x"):
        for token in tiny_tokenizer(text, add_special_tokens=False).input_ids:
            observation, _, _, _, info = env.step(token)
    number = env._mdp.turns._envs[0].number
    assert tiny_tokenizer.decode(observation[observation >= 0][1:]) == f"Number {number}.abx -> 3 of {number} "
    assert info["turn"] | {"score_parts": {}} == {
        "action": "abx", "reply": f"3 of {number}", "role": "user", "score": 0.03, "score_parts": {}, "tokens": 3,
        "finish_reason": "stop",
    }  # fmt: skip
    # A stop string that spans two turns ends none.
    (token,) = tiny_tokenizer("a", add_special_tokens=False).input_ids
    assert "turn" not in env.step(token)[4]


def test_seeds_are_the_prompts(make_task: Any):
    """The same seed of the environment asks the same; `prompt_index` chooses; the splits share none."""
    env = TextGenEnv(make_task(), **DEFERRED)
    first = env.reset(seed=9)[0]
    np.testing.assert_array_equal(env.reset(seed=9)[0], first)
    chosen = env.reset(options={"prompt_index": 4})[0]
    np.testing.assert_array_equal(env.reset(options={"prompt_index": 4})[0], chosen)
    sets = {split: TextGenEnv(make_task(), split=split).prompts for split in ("train", "validation", "heldout")}
    seeds = {split: {prompts[index].columns["seed"] for index in range(200)} for split, prompts in sets.items()}
    assert all(len(each) == 200 for each in seeds.values())
    assert len(set.union(*seeds.values())) == 600
    with pytest.raises(PromptError, match="writes the prompts"):
        env.reset(options={"prompt": "hello"})


class Asks:
    """Asks the question of its row."""

    def reset(self, seed: int | None = None, *, prompt: str, answer: str) -> tuple[str, dict[str, Any]]:
        self.answer = answer
        return f"{prompt}?", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "", float(action == self.answer), True, False, {}


def test_rows_of_prompts_reach_the_turn_environment(make_task: Any, tiny_tokenizer: Any):
    rows = [{"prompt": "a", "answer": "b", "more": 1}, {"prompt": "c", "answer": "d", "more": 1}]
    env = TextGenEnv(make_task(Asks, prompts=rows, heldout_prompts=[], validation_prompts=[]), **DEFERRED)
    for index, row in enumerate(rows):
        env.reset(options={"prompt_index": index})
        (token,) = tiny_tokenizer(row["answer"], add_special_tokens=False).input_ids
        env.step(token)
        info = env.step(3)[4]
        assert (info["prompt"][0]["content"], info["score"]) == (f"{row['prompt']}?", 1.0)
    env.reset(options={"prompt": "e", "columns": {"answer": "f", "more": 2}})
    assert env._mdp.prompts[0].text[0]["content"] == "e?"
    with pytest.raises(ConfigError, match="needs the column 'answer'"):
        TextGenEnv(make_task(Asks, prompts=["a"] * 3)).reset()
    with pytest.raises(ConfigError, match="takes nothing of the prompts"):
        TextGenEnv(make_task(prompts=rows)).reset()


def test_openings_that_are_too_long(make_task: Any):
    long = {"max_prompt_tokens": 10}
    cutting = make_task(prompt_overflow="truncate", **long)
    env, whole = TextGenEnv(cutting, **DEFERRED), TextGenEnv(make_task(), **DEFERRED)
    ids = whole.reset(seed=0)[0]
    assert env.reset(seed=0)[0][:10].tolist() == ids[ids >= 0][-10:].tolist()
    with pytest.raises(PromptTooLong, match=r"CountingGame.*max_prompt_tokens=10"):
        TextGenEnv(make_task(**long)).reset()


def test_a_system_prompt_of_the_task_or_of_the_turn_environment(make_task: Any):
    class Ruled(CountingGame):
        system_prompt = "own"

    for given, wanted in (({}, "own"), ({"system_prompt": "task"}, "task"), ({"system_prompt": ""}, None)):
        env = TextGenEnv(make_task(Ruled, max_prompt_tokens=32, **given))
        env.reset()
        roles = [(each["role"], each["content"]) for each in env._mdp.prompts[0].text]
        assert roles[:-1] == ([] if wanted is None else [("system", wanted)])


@pytest.mark.parametrize("way", ["state_dict", "pickle", "deepcopy"])
def test_it_goes_on_exactly_where_it_was_saved(make_task: Any, way: str):
    arguments = {"kl_mode": "deferred", "autoreset_mode": "SAME_STEP"}
    task = make_task(model="embedded") if way == "pickle" else make_task()
    env = TextGenVectorEnv(4, task, **arguments)
    rng = np.random.default_rng(0)
    env.reset(seed=1)
    for _ in range(17):
        env.step(tokens_of(rng, 4))
    if way == "state_dict":
        state = env.state_dict()
        json.dumps([state["rows"]["turns"], state["rows"]["opened"]])
        twin = TextGenVectorEnv(4, task, **arguments)
        twin.load_state_dict(copy.deepcopy(state))
    else:
        twin = pickle.loads(pickle.dumps(env)) if way == "pickle" else copy.deepcopy(env)
    for _ in range(40):
        tokens = tokens_of(rng, 4)
        got, wanted = twin.step(tokens), env.step(tokens)
        for place in range(4):
            np.testing.assert_array_equal(got[place], wanted[place])
        said = [list(each[4].get("final_info", {}).get("turns", ())) for each in (got, wanted)]
        assert said[0] == said[1]


def test_one_that_cannot_be_saved_is_refused_where_it_would_go_on(make_task: Any):
    class Forgetful(CountingGame):
        get_state = None  # type: ignore[assignment]

    env = TextGenVectorEnv(2, make_task(Forgetful), **DEFERRED)
    fresh = TextGenVectorEnv(2, make_task(Forgetful), **DEFERRED)
    fresh.load_state_dict(env.state_dict())  # nothing is in flight
    env.reset(seed=0)
    state = env.state_dict()
    with pytest.raises(ConfigError, match=r"'Forgetful', which cannot be saved.*get_state\(\)"):
        fresh.load_state_dict(state)
    fresh.reset(seed=0)
    copy.deepcopy(env).step(np.array([5, 5]))

    class Opaque(CountingGame):
        def get_state(self) -> Any:
            return object()

    env = TextGenVectorEnv(2, make_task(Opaque), **DEFERRED)
    env.reset()
    with pytest.raises(ConfigError, match=r"get_state\(\) of 'Opaque'"):
        env.state_dict()
