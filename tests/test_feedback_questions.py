"""Where an annotation page's questions come from: files, and policies that are asked until their responses differ."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from textrl_agents.feedback.questions import sampled_questions as sampling
from textrl_agents.feedback.questions.prompt_source import PromptSource
from textrl_agents.feedback.questions.question_file import read_questions
from textrl_agents.feedback.questions.question_request import QuestionRequest
from textrl_agents.feedback.questions.sampled_questions import ROUNDS, NamedPolicy, sampled_questions
from textrl_env.errors import ConfigError, UnknownName
from textrl_env.preferences import Candidate, FeedbackStore, Question

ROWS = [("the soup", {"group": "food"}), ("the room", {"group": "bed"}), ("hello", {"group": "none"})]


def nothing_to_load(name: str) -> Any:
    raise AssertionError(f"{name} was loaded")


class TestQuestionFile:
    def test_lines_become_questions(self, tmp_path: Path):
        path = tmp_path / "pairs.jsonl"
        chat = [{"role": "user", "content": "Why?"}]
        lines = [
            {"prompt": "p", "responses": ["a", {"text": "b", "model": "m", "sampling": {"seed": 1}}], "group": "g"},
            {"prompt": chat, "responses": ["a"], "kind": "rating", "attributes": ["tone"]},
        ]
        path.write_text("\n\n".join(map(json.dumps, lines)) + "\r\n", encoding="utf-8-sig")
        pair, rating = read_questions(path)
        assert (pair.kind, pair.prompt, pair.columns) == ("comparison", "p", {"group": "g"})
        assert pair.candidates == (Candidate("a"), Candidate("b", "m", {"seed": 1}))
        assert (rating.kind, rating.prompt, rating.attributes) == ("rating", chat, ("tone",))

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("{", "line 2: not JSON"),
            ("[" * 100_000, "line 2: nested too deep"),
            ("[]", "line 2: a question is an object"),
            ('{"responses": ["a", "b"]}', "line 2: a question has no 'prompt'"),
            ('{"prompt": "p"}', "line 2: a question has no 'responses'"),
            ('{"prompt": "p", "responses": "ab"}', "line 2: responses and attributes are lists"),
            ('{"prompt": "p", "responses": ["a", "a"]}', "line 2: a comparison needs different responses"),
            ('{"prompt": "p", "responses": "ab", "attributes": ["x"]}', "line 2: responses and .* are lists, got 'ab'"),
            ('{"prompt": "p", "responses": ["a", "b"], "x": NaN}', "line 2: columns and sampling must hold what JSON"),
            ('{"prompt": "p", "responses": ["a", "b"], "kind": []}', "line 2: unknown kind of question"),
            ('{"prompt": "p", "responses": ["a", 1]}', "line 2: a response is a text or"),
            ('{"prompt": "p", "responses": ["a", {"text": "b", "score": 1}]}', "line 2: a response is a text or"),
            ('{"prompt": "p", "responses": ["a", "b"], "kind": "quiz"}', "line 2: unknown kind of question 'quiz'"),
            ('{"prompt": 1, "responses": ["a", "b"]}', "line 2: the prompt must be a text"),
            ('{"prompt": "\\ud800", "responses": ["a", "b"]}', "line 2: the prompt holds .*surrogate"),
        ],
    )
    def test_a_bad_line_is_named(self, tmp_path: Path, line: str, message: str):
        path = tmp_path / "pairs.jsonl"
        path.write_text(f'{{"prompt": "p", "responses": ["a", "b"]}}\n{line}\n')
        with pytest.raises(ConfigError, match=message):
            read_questions(path)

    def test_no_file_and_no_question(self, tmp_path: Path):
        with pytest.raises(ConfigError, match="cannot be read: No such file"):
            read_questions(tmp_path / "none.jsonl")
        (tmp_path / "empty.jsonl").write_text("\n")
        with pytest.raises(ConfigError, match="is empty"):
            read_questions(tmp_path / "empty.jsonl")
        (tmp_path / "latin.jsonl").write_bytes(b"\xe9")
        with pytest.raises(ConfigError, match="not UTF-8"):
            read_questions(tmp_path / "latin.jsonl")


class Drawn:
    """In place of `generate`: gives each prompt the next of its texts, and counts what is asked for."""

    def __init__(self, texts: dict[str, list[str]]):
        self.texts = {prompt: iter(given) for prompt, given in texts.items()}
        self.asked: list[str] = []

    def __call__(self, policy: Any, prompts: list[str], **how: Any) -> list[Any]:
        self.asked += prompts
        return [SimpleNamespace(response=next(self.texts[prompt])) for prompt in prompts]


class TestSampledQuestions:
    def test_one_policy_against_itself(self, make_policy: Any):
        made = sampled_questions(
            [NamedPolicy("mine", make_policy())], ROWS, responses=2, max_new_tokens=6, temperature=1.5, seed=3
        )
        assert made.dropped == 0
        assert [(question.prompt, question.columns) for question in made.questions] == ROWS
        for question in made.questions:
            first, second = question.candidates
            assert first.text != second.text
            assert first.model == second.model == "mine"
            assert first.sampling["seed"] != second.sampling["seed"]
            assert (first.sampling["temperature"], first.sampling["max_new_tokens"]) == (1.5, 6)
        again = sampled_questions(
            [NamedPolicy("mine", make_policy())], ROWS, responses=2, max_new_tokens=6, temperature=1.5, seed=3
        )
        assert again == made

    def test_two_policies_blind(self, make_policy: Any, make_model: Any):
        policies = [NamedPolicy("a", make_policy()), NamedPolicy("b", make_policy(make_model("llama", seed=2)))]
        made = sampled_questions(policies, ROWS, responses=2, max_new_tokens=6)
        assert [[each.model for each in question.candidates] for question in made.questions] == [["a", "b"]] * 3
        ranking = sampled_questions(policies, ROWS, kind="ranking", responses=3, max_new_tokens=6)
        assert [each.model for each in ranking.questions[0].candidates] == ["a", "b", "a"]

    def test_equal_responses_are_drawn_again_and_then_dropped(self, make_policy: Any, monkeypatch: pytest.MonkeyPatch):
        drawn = Drawn(
            {
                "the soup": ["same"] * (ROUNDS + 1),
                "the room": ["one", "one", "one", "two"],
                "hello": ["x", "y"],
            }
        )
        monkeypatch.setattr(sampling, "generate", drawn)
        made = sampled_questions([NamedPolicy("mine", make_policy())], ROWS, responses=2)
        assert made.dropped == 1
        texts = {question.prompt: [each.text for each in question.candidates] for question in made.questions}
        assert texts == {"the room": ["one", "two"], "hello": ["x", "y"]}
        assert drawn.asked.count("the soup") == ROUNDS + 1
        assert drawn.asked.count("hello") == 2

    def test_a_greedy_policy_is_told(self, make_policy: Any):
        with pytest.raises(ConfigError, match="no prompt has 2 different responses after 5 rounds"):
            sampled_questions([NamedPolicy("greedy", make_policy(greedy=True))], ROWS, responses=2, max_new_tokens=4)


class TestQuestionRequest:
    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"kind": "quiz"}, "unknown kind of question 'quiz'"),
            ({"attributes": ("tone",)}, "attributes are of a rating"),
            ({"responses": 2}, "responses must be 2 or more, of a ranking; got 2 of a comparison"),
            ({"responses": 1, "kind": "ranking"}, "responses must be 2 or more"),
            ({"policies": ("a", "b"), "task": "t", "kind": "edit"}, "2 policies need questions of as many responses"),
            ({"policies": ("a",)}, "give either a task or a file of prompts"),
            ({"policies": ("a",), "task": "t", "prompts": "p"}, "give either a task or a file of prompts"),
            ({"task": "t"}, "prompts are answered by a policy"),
            ({"ready": Path("q"), "policies": ("a",), "task": "t"}, "ready questions come without"),
        ],
    )
    def test_what_does_not_go_together(self, given: dict[str, Any], message: str):
        with pytest.raises(ConfigError, match=message):
            QuestionRequest(**given)

    def test_a_share_of_the_questions_is_shared(self, tmp_path: Path):
        path = tmp_path / "pairs.jsonl"
        path.write_text("\n".join(json.dumps({"prompt": str(n), "responses": ["a", "b"]}) for n in range(20)))
        request = QuestionRequest(ready=path, overlap=3, overlap_share=0.25)
        made = request.made(nothing_to_load, print)
        assert sorted(made.votes) == [1] * 15 + [3] * 5
        assert made.votes == request.made(nothing_to_load, print).votes
        assert (
            made.votes
            != QuestionRequest(ready=path, overlap=3, overlap_share=0.25, seed=1).made(nothing_to_load, print).votes
        )
        few = QuestionRequest(ready=path, overlap=2, overlap_share=0.01).made(nothing_to_load, print)
        assert sum(few.votes) == 21  # one at least, or no agreement can be measured
        none = QuestionRequest(ready=path, overlap=2, overlap_share=0).made(nothing_to_load, print)
        assert set(none.votes) == {1}

    def test_prompts_of_a_task_are_its_training_prompts(self):
        from textrl_env.tasks import get_task

        source = PromptSource.of_task("sentiment").drawn(5, seed=0)
        task = get_task("sentiment")
        assert len({prompt for prompt, _ in source.rows}) == 5
        assert source.max_new_tokens == task.max_new_tokens
        with pytest.raises(UnknownName, match="unknown task"):
            PromptSource.of_task("sentimnet")

    def test_questions_about_a_policy(self, tmp_path: Path, make_policy: Any):
        prompts = tmp_path / "prompts.txt"
        prompts.write_text("the soup\nthe room\nhello\n")
        said: list[str] = []
        request = QuestionRequest(policies=("mine",), prompts=str(prompts), count=2, max_new_tokens=5, temperature=2.0)
        made = request.made(lambda name: make_policy(), said.append)
        assert len(made.questions) + made.dropped == 2
        assert said[0] == "sampling 2 responses of mine"
        assert all(each.model == "mine" for question in made.questions for each in question.candidates)


def test_a_store_takes_votes_for_each_question(tmp_path: Path):
    asked = [Question("comparison", str(number), (Candidate("a"), Candidate("b"))) for number in range(3)]
    with FeedbackStore(tmp_path / "votes.sqlite") as store:
        for votes, message in (([1, 2], "votes holds 2 numbers, for 3 questions"), ([1, 0, 1], "got 0")):
            with pytest.raises(ConfigError, match=message):
                store.ask(asked, votes=votes)
        assert store.progress().questions == 0
        store.ask(asked, votes=[1, 3, 1])
        assert store.progress().votes_wanted == 5
        given = []
        for person in ("a", "b", "c"):
            while lease := store.next_question(person):
                store.answer(lease.token, lease.record(preferred=None))
                given.append((person, lease.question.prompt))
        assert sorted(given) == [("a", "0"), ("a", "1"), ("a", "2"), ("b", "1"), ("c", "1")]
