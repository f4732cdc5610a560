"""`RemoteReward` against real local servers in all kinds of trouble: bounded attempts, then an error; never a score."""

from __future__ import annotations

import copy
import email.utils
import json
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from reward_server import Answer, Handler, Server, fixed, lengths, reward_servers

from textrl_agents.training.trust import python_named_in, require_trust
from textrl_env.errors import ConfigError, InvalidScore, MissingExtra, RewardError, RewardTimeout, WrongScoreCount
from textrl_env.rewards import RemoteReward, make_reward, score_episodes, score_newest_tokens
from textrl_env.rewards.make import check_reward_name
from textrl_env.rewards.remote import connection

TOKEN = "a-secret-token"
QUICK = {"retries": 2, "connect_timeout": 2.0, "read_timeout": 0.2, "timeout": 20.0}
PROMPTS, COMPLETIONS = ["p"] * 5, ["", "a", "bb", "ccc", "dddd"]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], Server]]:
    """Start servers that end with the test; waits between attempts are short."""
    monkeypatch.setattr(connection, "FIRST_WAIT", 0.01)
    with reward_servers() as start:
        yield start


# What is sent, and what comes back


def test_scores_come_back_in_batches_and_in_order(serve: Any) -> None:
    server = serve(lengths)
    reward = make_reward(server.url, batch_size=2)
    scored = score_episodes(reward, PROMPTS, COMPLETIONS, None, {"answer": list("vwxyz")})
    assert scored.scores.tolist() == [0, 1, 2, 3, 4]
    assert scored.parts["half"].tolist() == [0, 0.5, 1, 1.5, 2]
    sent = [asked for _, _, asked in server.requests]
    assert [len(asked["prompts"]) for asked in sent] == [2, 2, 1]
    assert [asked["columns"] for asked in sent] == [{}] * 3  # no column goes out unasked
    assert reward(prompts=PROMPTS, completions=COMPLETIONS, trainer_state=None) == [0, 1, 2, 3, 4]
    assert reward([], []) == []
    assert repr(reward) == f"RemoteReward('{server.url}', shape='textrl', batch_size=2)"


def test_each_of_many_threads_keeps_its_connection(serve: Any) -> None:
    together = threading.Barrier(8, timeout=10)
    ports = []

    def answer(handler: Handler, asked: Any) -> None:
        ports.append(handler.client_address[1])
        together.wait()
        lengths(handler, asked)

    reward = RemoteReward(serve(answer).url)
    with ThreadPoolExecutor(8) as threads:
        for _ in range(3):
            assert [*threads.map(lambda text: reward(["p"], [text]), ["a"] * 8)] == [[1.0]] * 8
    assert len(ports) == 24
    assert len(set(ports)) == 8


def test_columns_that_are_named_are_sent(serve: Any) -> None:
    server = serve(lengths)
    reward = RemoteReward(server.url, columns=["answer"], batch_size=3)
    reward(PROMPTS, COMPLETIONS, answer=list("vwxyz"), other=[0] * 5)
    sent = [asked["columns"] for _, _, asked in server.requests]
    assert sent == [{"answer": ["v", "w", "x"]}, {"answer": ["y", "z"]}]
    with pytest.raises(ConfigError, match="is to get the column 'answer', which the prompts lack"):
        reward(PROMPTS, COMPLETIONS)


def test_chats_are_sent_as_chats_and_as_queries(serve: Any) -> None:
    server = serve(lengths)
    chat, answer = [{"role": "user", "content": "hi"}], [{"role": "assistant", "content": "yo"}]
    RemoteReward(server.url)([chat], [answer])
    assert server.requests[0][2] == {"prompts": [chat], "completions": [answer], "columns": {}}
    scores = RemoteReward(server.url, shape="openrlhf")([chat, "a"], [answer, "b"], labels=["x", "y"])
    assert server.requests[1][2] == {"query": ["hi\nyo", "ab"], "prompts": ["hi\n", "a"], "labels": ["x", "y"]}
    assert scores == [5, 2]


def test_the_token_goes_into_its_header_and_nowhere_else(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCORE_TOKEN", TOKEN)
    server = serve(lambda handler, asked: handler.say(403, f"no {handler.headers['Authorization']}".encode()))
    reward = RemoteReward(server.url, token_env="SCORE_TOKEN")
    with pytest.raises(RewardError, match=r"answered 403: 'no Bearer \*\*\*'") as caught:
        reward(PROMPTS, COMPLETIONS)
    assert server.requests[0][1]["Authorization"] == f"Bearer {TOKEN}"
    assert TOKEN.encode() not in pickle.dumps(reward)
    for text in (repr(reward), str(caught.value), repr(vars(reward)), repr(vars(reward._connection))):
        assert TOKEN not in text
    server.answer = lengths
    assert RemoteReward(server.url, token_env="SCORE_TOKEN", header="X-Key")(["p"], ["a"]) == [1]
    assert server.requests[-1][1]["X-Key"] == TOKEN
    monkeypatch.delenv("SCORE_TOKEN")
    with pytest.raises(ConfigError, match="'SCORE_TOKEN' of the reward server's token is not set"):
        reward(PROMPTS, COMPLETIONS)


def echo(handler: Handler, asked: Any) -> None:
    handler.say(200, json.dumps({"got": handler.headers["X-Key"]}).encode())


def echo_as_score(handler: Handler, asked: Any) -> None:
    handler.say(200, json.dumps({"rewards": [handler.headers["X-Key"]]}).encode())


def echo_far_behind(handler: Handler, asked: Any) -> None:
    handler.say(403, b"-" * 290 + handler.headers["X-Key"].encode())


def echo_as_json(handler: Handler, asked: Any) -> None:
    handler.say(403, json.dumps([handler.headers["X-Key"]]).encode())


def echo_elsewhere(handler: Handler, asked: Any) -> None:
    handler.say(302, b"", Location=f"http://elsewhere/?key={handler.headers['X-Key']}")


@pytest.mark.parametrize("token", [TOKEN, 'quo\'ted\\ "token"'])
@pytest.mark.parametrize("answer", [echo, echo_as_score, echo_far_behind, echo_as_json, echo_elsewhere])
def test_a_server_that_sends_the_token_back(serve: Any, monkeypatch: Any, answer: Answer, token: str) -> None:
    monkeypatch.setenv("SCORE_TOKEN", token)
    reward = RemoteReward(serve(answer).url, token_env="SCORE_TOKEN", header="X-Key", retries=0)
    with pytest.raises(RewardError) as caught:
        reward(["p"], ["a"])
    assert token[:5] not in str(caught.value)
    assert "*" in str(caught.value)


def test_a_forked_process_has_connections_of_its_own(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over its parent's it would read the answers to the parent's samples."""
    server = serve(lambda handler, asked: (ports.append(handler.client_address[1]), lengths(handler, asked))[1])
    ports: list[int] = []
    reward = RemoteReward(server.url)
    reward(["p"], ["a"])
    reward(["p"], ["a"])
    monkeypatch.setattr(connection.os, "getpid", lambda: 1)  # as a forked process has
    reward(["p"], ["a"])
    assert ports[0] == ports[1] != ports[2]


def test_copies_and_pickles_ask_too(serve: Any) -> None:
    reward = RemoteReward(serve(lengths).url)
    reward(["p"], ["a"])
    for twin in (pickle.loads(pickle.dumps(reward)), copy.deepcopy(reward)):
        assert twin(["p"], ["abc"]) == [3]


def test_proxies_of_the_environment_are_not_used(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert RemoteReward(serve(lengths).url)(["p"], ["a"]) == [1]


# Scores of tokens


def newest_tokens(handler: Handler, asked: Any) -> None:
    if "completions" in asked:
        lengths(handler, asked)
    else:
        handler.say(200, json.dumps({"token_rewards": [ids[-1] for ids in asked["completion_ids"]]}).encode())


def test_a_server_that_scores_tokens(serve: Any) -> None:
    server = serve(newest_tokens)
    reward = RemoteReward(server.url, tokens=True, columns=["answer"], batch_size=2)
    ids = [[1], [2, 3], np.array([4, 5])]
    scores = score_newest_tokens(reward, ["p"] * 3, ids, {"answer": list("xyz"), "other": [0] * 3})
    assert scores is not None
    assert scores.tolist() == [1, 3, 5]
    assert [asked for _, _, asked in server.requests] == [
        {"prompts": ["p", "p"], "completion_ids": [[1], [2, 3]], "columns": {"answer": ["x", "y"]}},
        {"prompts": ["p"], "completion_ids": [[4, 5]], "columns": {"answer": ["z"]}},
    ]
    assert reward(["p"], ["abc"], answer=["x"]) == [3]
    assert server.requests[-1][2] == {
        "prompts": ["p"],
        "completions": ["abc"],
        "columns": {"answer": ["x"]},
        "tokens": True,
    }
    assert repr(reward) == f"RemoteReward('{server.url}', shape='textrl', tokens=True, batch_size=2)"
    assert pickle.loads(pickle.dumps(reward)).score_tokens is not None
    assert RemoteReward(server.url).score_tokens is None


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (b'{"rewards": [1.0]}', InvalidScore, "expected {'token_rewards': .1 numbers.}"),
        (b'{"token_rewards": [1.0, 2.0]}', WrongScoreCount, "gave 2 numbers as 'token_rewards'; expected a list of 1"),
        (b'{"token_rewards": [[1.0]]}', InvalidScore, "as number 0 of 'token_rewards'; expected a finite number"),
        (b'{"token_rewards": [1e999]}', InvalidScore, "expected a finite number"),
    ],
)
def test_what_is_no_score_of_a_token(body: bytes, kind: Any, message: str, serve: Any) -> None:
    with pytest.raises(kind, match=message):
        score_newest_tokens(RemoteReward(serve(fixed(200, body)).url, tokens=True), ["p"], [[1]])


# CHECKS 21


def fails(url: str, kind: type[Exception], message: str, **arguments: Any) -> str:
    reward = RemoteReward(url, **{**QUICK, "batch_size": 3, **arguments})
    with pytest.raises(kind, match=message) as caught:
        score_episodes(reward, PROMPTS, COMPLETIONS)
    text = str(caught.value)
    assert url.partition("?")[0] in text
    assert "samples 0 to 2 of 5" in text
    return text


def test_a_server_that_is_down() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    text = fails(f"http://127.0.0.1:{port}/", RewardError, "failed in 2 attempts: .*refused", retries=1)
    assert "RewardTimeout" not in text


def wait(handler: Handler, asked: Any) -> None:
    handler.server.over.wait(60)


def test_a_server_that_says_nothing(serve: Any) -> None:
    server = serve(wait)
    fails(server.url, RewardTimeout, "failed in 3 attempts: ReadTimeoutError")
    assert len(server.requests) == 3


def drip(handler: Handler, asked: Any) -> None:
    """A byte now and then: no wait for bytes is ever long."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    while not handler.server.over.wait(0.02):
        handler.wfile.write(b" ")


def test_a_server_that_is_slow_without_end(serve: Any) -> None:
    fails(serve(drip).url, RewardTimeout, r"did not answer within 0\.6 s for 3 samples", timeout=0.1)


def cut(handler: Handler, asked: Any) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"rewards": [1.0, 2.')
    handler.close_connection = True


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (fixed(500, b'{"error": "boom"}'), "it answered 500: .*boom"),
        (fixed(503, b"\x1b[31mred"), r"it answered 503: '\\x1b\[31mred'"),
        (fixed(429, b"busy"), "it answered 429"),
        (cut, "IncompleteRead"),
        (fixed(200, b'{"rewards": [1.0, 2.'), "it answered no JSON"),
        (fixed(200, b""), "it answered no JSON"),
        (fixed(200, b"<html>\xff"), "it answered no JSON"),
        (fixed(200, b"[" * 50_000), "it answered no JSON"),
    ],
)
def test_what_may_pass_is_tried_again(answer: Answer, message: str, serve: Any) -> None:
    server = serve(answer)
    fails(server.url, RewardError, f"failed in 3 attempts: .*{message}")
    assert len(server.requests) == 3
    server.answer = lengths
    assert RemoteReward(server.url)(PROMPTS, COMPLETIONS) == [0, 1, 2, 3, 4]


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between attempts, which take no time; the clock goes on by each."""
    found: list[float] = []
    clock = SimpleNamespace(sleep=found.append, monotonic=lambda: 1000.0 + sum(found))
    monkeypatch.setattr(connection, "time", clock)
    return found


def in_an_hour() -> str:
    return email.utils.formatdate(time.time() + 3600, usegmt=True)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("after", "least", "most"), [("7", 7, 7), ("date", 3595, 3600)])
def test_a_server_says_when_to_come_back(
    status: int, after: str, least: float, most: float, serve: Any, waits: list[float]
) -> None:
    header = in_an_hour() if after == "date" else after

    def third_time(handler: Handler, asked: Any) -> None:
        if len(handler.server.requests) > 2:
            lengths(handler, asked)
        else:
            handler.say(status, b"", Retry_After=header)

    reward = RemoteReward(serve(third_time).url, timeout=10_000.0)
    assert reward(PROMPTS, COMPLETIONS) == [0, 1, 2, 3, 4]
    assert len(waits) == 2
    assert all(least <= each <= most for each in waits)


@pytest.mark.parametrize("after", ["30", "date", "999999999", "9" * 5000])
def test_a_wait_that_is_longer_than_there_is_time_fails_at_once(after: str, serve: Any, waits: list[float]) -> None:
    server = serve(fixed(503, b"later", Retry_After=in_an_hour() if after == "date" else after))
    if len(after) == 5000:  # what is no number of seconds is not heeded
        fails(server.url, RewardError, "failed in 3 attempts: it answered 503: 'later'$")
        return
    fails(
        server.url, RewardError, r"failed in 1 attempt: it answered 503: 'later'; it asks to wait .* s \(timeout: 20 s"
    )
    assert (len(server.requests), waits) == (1, [])


@pytest.mark.parametrize(
    ("status", "after"), [(500, "30"), (429, "soon"), (429, "-3"), (503, "0"), (429, "1 Jan 1999")]
)
def test_what_says_nothing_of_when_to_come_back(status: int, after: str, serve: Any, waits: list[float]) -> None:
    server = serve(fixed(status, b"", Retry_After=after))
    fails(server.url, RewardError, "failed in 3 attempts")
    assert len(waits) == 2
    assert max(waits) <= 0.02


def test_a_server_that_comes_back_is_asked_again(serve: Any) -> None:
    def second_time(handler: Handler, asked: Any) -> None:
        (lengths if len(handler.server.requests) > 2 else cut)(handler, asked)

    server = serve(second_time)
    assert RemoteReward(server.url, **QUICK)(PROMPTS, COMPLETIONS) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (fixed(400, b"what?"), RewardError, "answered 400: 'what\\?'"),
        (fixed(200, b'{"rewards": [1, 2]}'), WrongScoreCount, "gave 2 numbers as 'rewards'; expected a list of 3"),
        (fixed(200, b'{"rewards": 1.0}'), WrongScoreCount, "gave 1.0 as 'rewards'"),
        (fixed(200, b'{"rewards": [1, NaN, 2]}'), InvalidScore, "it holds NaN"),
        (fixed(200, b'{"rewards": [1, -Infinity, 2]}'), InvalidScore, "it holds -Infinity"),
        (fixed(200, b'{"rewards": [1, 1e999, 2]}'), InvalidScore, "gave inf as number 1"),
        (fixed(200, b'{"rewards": [1, 1%s, 2]}' % (b"0" * 400)), InvalidScore, "as number 1 of 'rewards'"),
        (fixed(200, b'{"rewards": [1, null, 2]}'), InvalidScore, "gave None as number 1"),
        (fixed(200, b'{"rewards": [1, true, 2]}'), InvalidScore, "gave True as number 1"),
        (fixed(200, b'{"rewards": [1, "2", 2]}'), InvalidScore, "gave '2' as number 1"),
        (fixed(200, b'{"rewards": [[1], [2], [3]]}'), InvalidScore, r"gave \[1\] as number 0"),
        (fixed(200, b'{"score": [1, 2, 3]}'), InvalidScore, "expected {'rewards': "),
        (fixed(200, b"[1, 2, 3]"), InvalidScore, "expected {'rewards': "),
        (fixed(200, b'{"rewards": [1, 2, 3], "parts": {"a": [1]}}'), WrongScoreCount, "1 numbers as 'a'"),
        (fixed(200, b'{"rewards": [1, 2, 3], "parts": [1]}'), InvalidScore, r"gave the parts \[1\]"),
        (fixed(200, b" " * 5000), RewardError, "answered more than 4096 bytes"),
        (fixed(307, b"", Location="http://127.0.0.1:1/steal"), RewardError, "redirects to 'http://127.0.0.1:1/steal'"),
        (fixed(302, b"", Location="/elsewhere"), RewardError, "redirects to '/elsewhere'"),
    ],
)
def test_what_would_come_again_is_an_error_at_once(answer: Answer, kind: Any, message: str, serve: Any) -> None:
    server = serve(answer)
    fails(server.url + "?key=1", kind, message, max_bytes=4096)
    assert len(server.requests) == 1


def huge(handler: Handler, asked: Any) -> None:
    """Without a length, and without end."""
    handler.send_response(200)
    handler.end_headers()
    while not handler.server.over.is_set():
        handler.wfile.write(b" " * 2**16)


def test_a_body_without_end_is_not_read_to_its_end(serve: Any) -> None:
    fails(serve(huge).url, RewardError, "answered more than 1000000 bytes", max_bytes=10**6)


def test_a_compressed_bomb_is_not_unpacked(serve: Any) -> None:
    import gzip

    packed = gzip.compress(b'{"rewards": [1, 2, 3]}' + b" " * 10**7)
    server = serve(fixed(200, packed, Content_Encoding="gzip"))
    fails(server.url, RewardError, "it answered no JSON", max_bytes=10**6)


def test_what_json_cannot_hold_is_not_sent(serve: Any) -> None:
    server = serve(lengths)
    reward = RemoteReward(server.url, columns=["c"])
    for value in (object(), float("nan")):
        with pytest.raises(RewardError, match="cannot be sent what JSON cannot hold"):
            reward(["p"], ["a"], c=[value])
    assert server.requests == []


# Arguments


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://user:pass@127.0.0.1:1/", "holds a user's name or password, which would be logged"),
        ("https://user@host/", "holds a user's name or password"),
        ("http://", "is no address of a reward server"),
        ("http:///path", "is no address of a reward server"),
        ("http://host:port/", "is no address of a reward server"),
        ("http://user:pass@host:99999999/", "is no address of a reward server"),
    ],
)
def test_addresses_that_cannot_be_used(url: str, message: str) -> None:
    check_reward_name(url)  # looks like one: what is wrong with it shows when it is made
    with pytest.raises(ConfigError, match=message) as caught:
        make_reward(url)
    assert "pass@" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": "xml"}, "unknown shape of a reward server's requests 'xml'"),
        ({"columns": "answer"}, "must be a list of columns' names"),
        ({"batch_size": 0}, "batch_size must be a whole number >= 1"),
        ({"retries": -1}, "retries must be a whole number >= 0"),
        ({"timeout": 0}, "timeout must be a number of seconds above 0"),
        ({"read_timeout": "5"}, "read_timeout must be a number of seconds"),
        ({"max_bytes": 0}, "max_bytes must be a whole number >= 1"),
        ({"token_env": "NO_SUCH_VARIABLE"}, "'NO_SUCH_VARIABLE' of the reward server's token is not set"),
        ({"header": "X: y\nHost"}, "must be the name of an HTTP header"),
        ({"token_env": 3}, "of the reward server's token is not set"),
        ({"no_such": 3}, r"does not take the arguments \['no_such'\]"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_reward({"reward": "http://127.0.0.1:1/", "arguments": arguments})


def test_a_token_does_not_go_out_unencrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCORE_TOKEN", TOKEN)
    with pytest.raises(ConfigError, match=r"would go to http://example\.invalid/ unencrypted") as caught:
        RemoteReward("http://example.invalid/", token_env="SCORE_TOKEN")
    assert TOKEN not in str(caught.value)
    for url in ("https://example.invalid/", "http://localhost:1/", "http://[::1]:1/"):
        RemoteReward(url, token_env="SCORE_TOKEN")
    monkeypatch.setenv("SCORE_TOKEN", f"{TOKEN}\nX-Other: 1")
    with pytest.raises(ConfigError, match="characters that no header can have") as caught:
        RemoteReward("https://example.invalid/", token_env="SCORE_TOKEN")
    assert TOKEN not in str(caught.value)


def test_without_urllib3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'textrl-env\[rewards\]'"):
        RemoteReward("http://127.0.0.1:1/")


def test_a_folders_settings_name_a_server_only_where_its_user_allows_it() -> None:
    settings = {"reward": {"reward": "https://example.invalid/score", "arguments": {"token_env": "HOME"}}, "out": "x"}
    assert python_named_in(settings) == ["reward.reward: 'https://example.invalid/score'"]
    with pytest.raises(ConfigError, match=r"name servers that would get every response: reward\.reward: .* --trust"):
        require_trust(settings, "folder", False)
    require_trust(settings, "folder", True)
