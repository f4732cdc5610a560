"""Tasks: the registry, and how a task's parts and the arguments that override them become an environment."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from suffixes import pack_suffixes

from textrl_env import Task, TextGenEnv, TextGenVectorEnv, register_task
from textrl_env.errors import ConfigError, ModelError, PromptError, UnknownName
from textrl_env.models import SamplingParams, ScriptedModel
from textrl_env.tasks import get_task, registry, task_names
from textrl_env.tasks.assembly import assemble_model, assemble_reference
from textrl_env.tasks.built_in.exact import letter_tokenizer, steps_forward

EOS = 5  # of task "exact"


def say(env: TextGenEnv, tokens: list[int], **reset: Any) -> list[tuple]:
    """Every step's result for given tokens."""
    env.reset(**reset)
    return [env.step(token) for token in tokens]


@pytest.fixture
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_REGISTERED", {})


@pytest.mark.usefixtures("_own_registry")
def test_a_registered_task_is_known_by_its_name():
    exact = get_task("exact")
    task = dataclasses.replace(exact, name="mine", prompts=["b"])
    register_task(task)
    assert "mine" in task_names()
    assert get_task("mine") is task
    env = TextGenEnv("mine")
    assert env.task is task
    assert env.reset()[0].tolist()[:2] == [1, -1]


@pytest.mark.usefixtures("_own_registry")
def test_a_function_is_called_once_at_first_use():
    made: list[Task] = []

    def make() -> Task:
        made.append(Task("lazy", prompts=["b"], reward="length"))
        return made[-1]

    register_task(make, "lazy")
    assert "lazy" in task_names()
    assert made == []
    assert get_task("lazy") is get_task("lazy") is made[0]
    assert len(made) == 1


@pytest.mark.usefixtures("_own_registry")
def test_what_cannot_be_registered():
    task = Task("mine", prompts=["b"], reward="length")
    register_task(task)
    for name in ("mine", "exact"):
        with pytest.raises(ConfigError, match=f"{name!r} is registered already"):
            register_task(task, name)
    with pytest.raises(ConfigError, match="a function and its name"):
        register_task(lambda: task)
    with pytest.raises(ConfigError, match="takes a Task"):
        register_task("mine", "other")  # type: ignore[arg-type]


def test_built_in_tasks():
    assert set(registry.BUILT_IN) == {
        *("arithmetic", "code", "detoxify", "dialogue", "exact", "in_language", "json_answer", "plain_language"),
        *("positive", "question", "recommend", "sentiment", "story", "summarize", "translate"),
        *("calculator", "clarify", "exact_turns", "guess", "safe_chat"),  # of several turns
    }
    assert set(registry.BUILT_IN) <= set(task_names())
    for name in registry.BUILT_IN:
        task = get_task(name)
        assert task.name == name
        assert registry.is_built_in(name)
        assert task.description, "the command line lists it"
        for split in ("validation", "heldout"):  # of several turns: seeds, where there are no prompts
            assert getattr(task, f"{split}_prompts") is not None or (task.turns is not None and task.prompts is None)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UnknownName, match=r"unknown task 'sentimnt'\. Did you mean 'sentiment'\? Known: .*exact"):
        get_task("sentimnt")


def test_the_split_chooses_the_prompts():
    task = dataclasses.replace(get_task("exact"), heldout_prompts=lambda: ["e"])
    assert [prompt.text for prompt in TextGenEnv(task, split="heldout").prompts] == ["e"]
    assert [prompt.text for prompt in TextGenEnv(task).prompts] == ["a", "c"]
    with pytest.raises(
        ConfigError, match=r"'exact' has no validation prompts, and fewer than 16 .* validation_prompts="
    ):
        TextGenEnv(task, split="validation")
    for heldout in (None, []):
        without = dataclasses.replace(task, heldout_prompts=heldout)
        with pytest.raises(ConfigError, match=r"task 'exact' has no held-out prompts, .*; pass heldout_prompts="):
            TextGenEnv(without, split="heldout")


def test_every_argument_overrides_the_tasks_part():
    env = TextGenEnv(
        "exact",
        prompts=["bb"],
        reward="length",
        kl_coef=0.125,
        kl_estimator="k3",
        kl_mode="log_ratio",
        max_new_tokens=2,
        max_prompt_tokens=4,
        sampling=SamplingParams(temperature=0.5),
        stop=["e"],
    )
    rules = env.rules
    assert (rules.kl_penalty.coef, rules.kl_penalty.estimator, rules.kl_mode) == (0.125, "k3", "log_ratio")
    assert (rules.max_new_tokens, rules.max_prompt_tokens, rules.max_length) == (2, 4, 6)
    assert rules.sampling == rules.kl_penalty.reference.sampling == SamplingParams(temperature=0.5)
    assert rules.stop.strings == ("e",)
    assert env.prompts[0].ids.tolist() == [1, 1]


def test_a_prompt_longer_than_the_limit_is_cut_or_refused_as_the_task_says():
    """CHECKS 8, through the environment."""
    task = get_task("exact")
    assert TextGenEnv(task, prompts=["abc"], max_prompt_tokens=2).reset()[0][:2].tolist() == [1, 2]
    refusing = dataclasses.replace(task, prompt_overflow="error")
    with pytest.raises(PromptError, match=r"has 3 tokens, more than max_prompt_tokens=2"):
        TextGenEnv(refusing, prompts=["abc"], max_prompt_tokens=2).reset()


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"task": "exakt"}, UnknownName, "unknown task 'exakt'. Did you mean 'exact'"),
        ({"render_mode": "video"}, ConfigError, "render_mode must be one of ansi, human, rgb_array"),
        ({"kl_mode": "log-ratio"}, UnknownName, "Did you mean 'log_ratio'"),
        ({"kl_estimator": "k4"}, UnknownName, "unknown kl_estimator 'k4'"),
        ({"kl_estimator": "full"}, ConfigError, "kl_mode='deferred'"),
        ({"kl_coef": -1.0}, ConfigError, "kl_coef must be a finite number >= 0"),
        ({"kl_coef": "high"}, ConfigError, "kl_coef must be a number"),
        ({"max_new_tokens": 0}, ConfigError, "max_new_tokens must be a whole number >= 1, got 0"),
        ({"max_new_tokens": 2.5}, ConfigError, "max_new_tokens must be a whole number"),
        ({"max_new_tokens": "5"}, ConfigError, "max_new_tokens must be a whole number"),
        ({"max_prompt_tokens": 0}, ConfigError, "max_prompt_tokens must be"),
        ({"max_prompt_tokens": True}, ConfigError, "max_prompt_tokens must be"),
        ({"max_new_tokens": 100}, ConfigError, r"1 \+ 100 exceeds the 16 positions"),
        ({"device": "cudo"}, UnknownName, "Did you mean 'cuda'"),
        ({"dtype": "float33"}, UnknownName, "Did you mean 'float32'"),
        ({"split": "test"}, UnknownName, "unknown split 'test'"),
        ({"sampling": {"temprature": 1.0}}, ConfigError, "temperature, top_k and top_p"),
        ({"sampling": {"temperature": 0.0}}, ConfigError, "temperature must be > 0"),
        ({"sampling": {"temperature": "hot"}}, ConfigError, "temperature"),
        ({"sampling": 0.7}, ConfigError, "temperature, top_k and top_p"),
        ({"stop": "."}, ConfigError, "list of non-empty strings"),
        ({"stop": [""]}, ConfigError, "list of non-empty strings"),
        ({"stop": 5}, ConfigError, "list of non-empty strings"),
        ({"reward": "embeded"}, UnknownName, "Did you mean 'embedded'"),
        ({"reward": lambda texts: texts}, ConfigError, "prompts"),
        ({"prompts": []}, PromptError, "empty"),
        ({"model": 5}, ConfigError, "causal LM, got int"),
        ({"model": 5, "tokenizer": letter_tokenizer()}, ConfigError, "causal LM, got int"),
    ],
)
def test_arguments_that_cannot_work(arguments: dict[str, Any], error: type[Exception], match: str):
    with pytest.raises(error, match=match):
        TextGenEnv(**{"task": "exact", **arguments})


def test_the_gold_score_is_reported_and_never_paid():
    gold = dataclasses.replace(get_task("exact"), gold=lambda prompts, completions: [-7.0] * len(prompts))
    steps = say(TextGenEnv(gold, kl_coef=0.0), [1, EOS], options={"prompt": "a"})
    assert steps[-1][4]["gold_score"] == -7.0
    assert sum(step[1] for step in steps) == steps[-1][4]["score"] == 1.0
    assert "gold_score" not in say(TextGenEnv("exact"), [EOS])[-1][4]


def test_score_parts_of_a_composite():
    env = TextGenEnv("exact", reward={"steps": (steps_forward, 2.0), "length": ("length", 0.0)})
    info = say(env, [1, 2, EOS], options={"prompt": "a"})[-1][4]
    assert info["score"] == pytest.approx(4.0)
    assert info["score_parts"].keys() == {"steps", "length"}
    assert info["score_parts"]["steps"] == 2.0


def test_columns_of_the_prompts_reach_the_reward():
    def wanted(prompts: list[str], completions: list[str], answer: list[str]) -> list[float]:
        return [float(a == c) for a, c in zip(answer, completions, strict=True)]

    rows = [{"prompt": "a", "answer": "bb"}, {"prompt": "c", "answer": "dd"}]
    env = TextGenEnv("exact", prompts=rows, reward=wanted)
    assert say(env, [1, 1, EOS], options={"prompt_index": 0})[-1][4]["score"] == 1.0
    assert say(env, [1, 1, EOS], options={"prompt_index": 1})[-1][4]["score"] == 0.0
    own = {"prompt": "e", "columns": {"answer": "b"}}
    assert say(env, [1, EOS], options=own)[-1][4]["score"] == 1.0


def test_the_reference_does_not_follow_a_model_that_the_caller_trains():
    """The environment's model may be the module that an agent trains: the reference is a copy of it at the start."""
    tokenizer = letter_tokenizer()
    model = ScriptedModel(torch.zeros(6, 6), eos_token_id=EOS)
    as_argument = TextGenEnv("exact", model=model, tokenizer=tokenizer)
    as_part = TextGenEnv(
        Task("own", prompts=["a"], reward="length", model=model, tokenizer=tokenizer, max_new_tokens=3)
    )
    with torch.no_grad():
        model.lm_head.weight[1] += 3.0
    for env in (as_argument, as_part):
        assert model.lm_head.weight.requires_grad, "the caller's model was frozen"
        (step,) = say(env, [1], options={"prompt": "a"})
        assert step[4]["ref_log_prob"] == pytest.approx(-math.log(6), abs=1e-6)


@pytest.fixture
def tiny_folder(make_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> Path:
    make_model("llama").save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    return tmp_path


def play(env: Any, actions: np.ndarray) -> list[Any]:
    """Resets and steps, one row of actions a step."""
    return [env.reset(seed=7), *(env.step(each) for each in actions)]


@pytest.mark.parametrize("by_name", [True, False], ids=["folder", "module"])
def test_an_environment_without_a_reference_is_the_same(by_name: bool, tiny_task: Task, tiny_folder: Path):
    """CHECKS 41 in part: where the KL is charged elsewhere, nothing that an episode shows needs the weights."""
    task = dataclasses.replace(tiny_task, model=tiny_folder) if by_name else tiny_task
    whole, without = ({"task": task, "kl_mode": "deferred", "with_reference": each} for each in (True, False))
    actions = np.random.default_rng(0).integers(2, 300, size=(8, 2))
    wanted = play(TextGenVectorEnv(2, **whole), actions)
    assert wanted[-1][2].all()
    single = play(TextGenEnv(**whole), actions[:, 0])
    if by_name:
        (tiny_folder / "model.safetensors").unlink()
    np.testing.assert_equal(play(TextGenVectorEnv(2, **without), actions), wanted)
    env = TextGenEnv(**without)
    np.testing.assert_equal(play(env, actions[:, 0]), single)
    assert single[-1][1] == single[-1][4]["score"] != 0.0
    assert env.model_name == (str(tiny_folder) if by_name else None)
    with pytest.raises(ConfigError, match="has no reference model"):
        env.kl_penalty(pack_suffixes([np.array([4, 9])], [1], "cpu"), torch.zeros(1))


@pytest.mark.parametrize("kl_mode", ["auto", "log_ratio", "cross_entropy"])
def test_a_reference_that_every_step_runs_is_not_left_out(kl_mode: str):
    with pytest.raises(ConfigError, match=f"with_reference=False needs kl_mode='deferred'; kl_mode='{kl_mode}' runs"):
        TextGenEnv("exact", kl_mode=kl_mode, with_reference=False)
    with pytest.raises(ConfigError, match="needs kl_mode='deferred'; kl_mode='auto'"):
        TextGenVectorEnv(2, "exact", with_reference=False)


def test_a_module_given_to_an_environment_without_a_reference_stays_as_it_is(make_model: Any, tiny_tokenizer: Any):
    model = make_model("llama").bfloat16()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    arguments = {"model": model, "tokenizer": tiny_tokenizer, "prompts": ["hello"], "reward": "length"}
    TextGenEnv("exact", **arguments, max_prompt_tokens=9, kl_mode="deferred", with_reference=False)
    parts = assemble_model("exact", model=model, tokenizer=tiny_tokenizer, weights=False)
    assert parts.model is model
    torch.testing.assert_close(dict(model.state_dict()), before, atol=0, rtol=0)
    assert all(weight.requires_grad for weight in model.parameters())


def test_a_model_and_its_reference_can_be_had_without_an_environment(tiny_task: Task, tiny_folder: Path):
    """The numbers of the environment's own reference, from the parts that another process loads."""
    task = dataclasses.replace(tiny_task, model=tiny_folder, sampling={"temperature": 0.5})
    env = TextGenEnv(task)
    parts, outline = (assemble_model(task, weights=weights) for weights in (True, False))
    assert all(weight.is_meta for weight in outline.model.parameters())
    for each in (parts, outline):
        assert (each.max_prompt_tokens, each.max_new_tokens, each.max_length) == (24, 8, env.rules.max_length)
        assert each.sampling == env.kl_penalty.reference.sampling == SamplingParams(temperature=0.5)
        for name in ("size", "eos_ids", "known"):
            np.testing.assert_equal(getattr(each.vocabulary, name), getattr(env.rules.vocabulary, name))
    packed = pack_suffixes([np.array([0, 9, 30, 7, 100])], [2], "cpu")
    got = assemble_reference(parts).episode_log_probs(packed)
    torch.testing.assert_close(got, env.kl_penalty.reference.episode_log_probs(packed), atol=0, rtol=0)
    assert not got.isnan().any()


def test_a_reference_copies_the_module_that_its_caller_holds_and_no_other(tiny_task: Task):
    parts = assemble_model(tiny_task)
    given, own = assemble_reference(parts, parts.model), assemble_reference(parts, "a name")
    packed = pack_suffixes([np.array([0, 9, 30])], [1], "cpu")
    before = given.episode_log_probs(packed)
    with torch.no_grad():
        parts.model.lm_head.weight[9] += 3.0
    torch.testing.assert_close(given.episode_log_probs(packed), before, atol=0, rtol=0)
    assert not torch.equal(own.episode_log_probs(packed), before)


def test_limits_hold_without_weights_too(tiny_task: Task, tiny_folder: Path):
    task = dataclasses.replace(tiny_task, model=tiny_folder)
    assert assemble_model(task, weights=False, max_new_tokens=104).max_length == 128
    with pytest.raises(ConfigError, match=r"24 \+ 105 exceeds the 128 positions of LlamaForCausalLM"):
        assemble_model(task, weights=False, max_new_tokens=105)
    with pytest.raises(ConfigError, match=r"24 \+ 105 exceeds the 128 positions"):
        TextGenEnv(task, kl_mode="deferred", with_reference=False, max_new_tokens=105)
    with pytest.raises(ConfigError, match="max_prompt_tokens must be a whole number >= 1, got 0"):
        assemble_model(task, weights=False, max_prompt_tokens=0)
    with pytest.raises(ModelError, match=r"nothing does not exist"):
        assemble_model(task, weights=False, model=tiny_folder / "nothing")
