"""Responses are sampled in one place: a loop that steps a policy or an environment stands there, or has a reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("textrl_env", "agents", "examples")
THE_LOOP = "agents/textrl_agents/rollout.py::respond"
# file::function -> why it does not call `collect`.
KEPT = {
    "examples/quickstart.py::": "shows the plain Gymnasium loop",
    "agents/textrl_agents/check/self_check.py::vector_and_single": "compares the two environments step by step",
    "agents/textrl_agents/sb3/own/tabular.py::QLearning.learn": "learns at every step, as an algorithm of SB3",
    "agents/textrl_agents/speed/sampling/rollout_rows.py::environment_alone.run": "times a step of the environment",
    "agents/textrl_agents/speed/sampling/decoding_rows.py::policy_steps.step": "times a step of the policy",
    "textrl_env/tasks/conformance.py::_check_episode": "acts at random, without a policy",
    # These step a training run, of which a step is a segment.
    "examples/steer_fine_tuning.py::": "plays a schedule",
    "agents/textrl_agents/finetune/learning_curve.py::play": "plays a schedule",
    "agents/textrl_agents/finetune/tabular.py::train_table": "learns at every step",
    "agents/textrl_agents/speed/training/finetune_rows.py::step_against_optimizer_steps.played": "times a step",
    "textrl_env/finetune/schedule_tree.py::enumerate_schedules.walk": "goes through every schedule there is",
    # These step a turn environment, by replies that are written down.
    "textrl_env/turns/game.py::Game.set_state": "plays a saved course again",
    "textrl_env/turns/foreign/foreign_turns.py::ForeignTurns.set_state": "plays a saved course again",
    "textrl_env/tasks/turn_enumeration.py::_courses": "goes through every course there is",
    "textrl_env/embedded/turn_corpus.py::episode": "scripted players, who show the embedded model how to take turns",
    "textrl_env/embedded/turn_training.py::turn_metrics": "measures that model, below what `collect` takes",
}
LOOPS = (ast.For, ast.AsyncFor, ast.While, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def stepping_loops(source: str) -> Iterator[str]:
    """The functions of a module (dotted; "" outside any) where a loop calls `x.step(...)` with arguments.

    Without arguments it is an optimizer's or a schedule's. A `step` that is passed on may be called in any loop.
    """

    tree = ast.parse(source)
    called = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}

    def walk(node: ast.AST, place: tuple[str, ...], in_loop: bool) -> Iterator[str]:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            place = (*place, node.name)
        in_loop = in_loop or isinstance(node, LOOPS)
        steps = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "step"
        passed_on = isinstance(node, ast.Attribute) and node.attr == "step" and node not in called
        if passed_on or (steps and in_loop and (node.args or node.keywords)):
            yield ".".join(place)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, place, in_loop)

    return walk(tree, (), False)


def test_responses_are_sampled_in_one_loop() -> None:
    found = {
        f"{path.relative_to(ROOT).as_posix()}::{function}"
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        for function in stepping_loops(path.read_text(encoding="utf-8"))
    }
    assert found - KEPT.keys() == {THE_LOOP}, "call textrl_agents.rollout.collect instead"
    assert KEPT.keys() <= found, "a loop that is gone needs no reason"


def test_a_loop_of_ones_own_is_found() -> None:
    sampling = """
class Sampler:
    def sample(self, policy, env):
        observation, done = env.reset(), False
        while not done:
            {step}
"""
    loops = {
        "self.env.step(policy.act(observation))": ["Sampler.sample"],
        "tokens = policy.step(observation, deterministic=True).tokens": ["Sampler.sample"],
        "mdp.step(actions=actions)": ["Sampler.sample"],
        "rewards = [env.step(action) for action in actions]": ["Sampler.sample"],
        "optimizer.step()": [],
        "env.render()": [],
    }
    for step, expected in loops.items():
        assert list(stepping_loops(sampling.format(step=step))) == expected
    assert list(stepping_loops("def once(env): return env.step(1)")) == []
    assert list(stepping_loops("def hidden(env): return repeat(env.step, 5)")) == ["hidden"]
    assert list(stepping_loops("rows = [env.step(action) for action in actions]")) == [""]
