"""The Python blocks of every page run, in their order and in one namespace, as a reader would type them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from documents import DOCS, blocks, pages

# Page -> what a block says of sizes -> less of it, for the test. All else runs as it stands.
TINY = {"n_envs=64": "n_envs=8, n_steps=8"}
SHORTER: dict[str, dict[str, str]] = {
    "index.md": {'"reward": exclaims}': '"reward": exclaims}, n_envs=8, n_steps=8', "learn(20_000)": "learn(64)"},
    "start.md": {**TINY, "learn(65_536)": "learn(64)", '"sentiment")[': '"sentiment", episodes=4)['},
    "turns.md": {"n_envs=32": "n_envs=4, n_steps=16", "learn(60_000)": "learn(64)"},
    "adapters/sb3.md": {**TINY, "learn(100_000)": "learn(64)", "learn(20_000)": "learn(1280)"},
    "adapters/rllib.md": {"num_envs_per_env_runner=64": "num_envs_per_env_runner=8", "range(20)": "range(2)"},
    "recipes/own_reward.md": {"seed=0": "seed=0, n_envs=8, n_steps=32", "learn(40_000)": "learn(256)"},
    "recipes/llm_judge.md": {**TINY, "learn(20_000)": "learn(64)"},
    "finetune.md": {"range(5)": "range(1)"},
}
WITH_PYTHON = [page for page in pages() if blocks(page, "python")]


class Judge(BaseHTTPRequestHandler):
    """Answers as a server with OpenAI's chat API does."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        rating = "Rating: 7" if "Answer: " in asked["messages"][0]["content"] else "no answer was sent"
        said = json.dumps({"choices": [{"message": {"content": rating}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *arguments: Any) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A judge for `recipes/llm_judge.md`, where its variables say."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in (("URL", f"http://127.0.0.1:{server.server_port}/v1"), ("MODEL", "judge"), ("KEY", "key")):
        monkeypatch.setenv(f"JUDGE_{name}", value)
    yield
    server.shutdown()
    server.server_close()


def name_in_docs(path: Path) -> str:
    return str(path.relative_to(DOCS))


def of_page(page: Path) -> Any:
    starts_ray = any("ray_session" in code for code in blocks(page, "python"))
    return pytest.param(page, id=name_in_docs(page), marks=pytest.mark.ray if starts_ray else pytest.mark.slow)


def test_what_is_made_shorter_is_there():
    assert set(SHORTER) <= {name_in_docs(page) for page in WITH_PYTHON}


@pytest.mark.usefixtures("judge")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
@pytest.mark.parametrize("page", [of_page(page) for page in WITH_PYTHON])
def test_blocks_run_in_their_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    shorter = SHORTER.get(name_in_docs(page), {})
    text = "\n".join(blocks(page, "python"))
    for given in shorter:
        assert given in text, f"{name_in_docs(page)} no longer says {given!r}"
    for number, code in enumerate(blocks(page, "python")):
        for given, less in shorter.items():
            code = code.replace(given, less)
        exec(compile(code, f"{name_in_docs(page)}, block {number}", "exec"), namespace)
