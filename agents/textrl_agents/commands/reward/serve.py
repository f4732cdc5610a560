"""`textrl reward serve`: a reward that other programs ask by HTTP."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from textrl_agents.commands.options import check_names, set_threads, told_on_stderr
from textrl_agents.training.extras import require
from textrl_env.errors import ConfigError

LOOPBACK = ("127.0.0.1", "localhost", "::1")

RewardSpec = Annotated[
    str, typer.Argument(metavar="REWARD", help="A registered name, file.py:function, a folder, or a Hugging Face id.")
]
Host = Annotated[str, typer.Option(help="Address to listen on. Any but 127.0.0.1 lets other machines ask.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")]
MaxBatch = Annotated[int, typer.Option(min=1, help="Most samples of a request.")]
MaxBytes = Annotated[int, typer.Option(min=1, help="Most bytes of a request.")]
TokenEnv = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Environment variable with a token that every request must bring."),
]
QueryEnd = Annotated[
    str, typer.Option(metavar="TEXT", help="Text to take off the end of OpenRLHF's queries, such as '</s>'.")
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of torch. Default: one per core.")]


def serve(
    reward: RewardSpec,
    host: Host = "127.0.0.1",
    port: Port = 5000,
    max_batch: MaxBatch = 1024,
    max_bytes: MaxBytes = 2**24,
    token_env: TokenEnv = None,
    query_end: QueryEnd = "",
    threads: Threads = None,
) -> None:
    """Score by HTTP, for `textrl train --reward http://127.0.0.1:5000` and for OpenRLHF's --remote_rm_url.

    POST / or /get_reward with {"prompts": [...], "completions": [...]} or OpenRLHF's {"query": [...], "prompts":
    [...]}; the answer is {"rewards": [...]}. A reward that scores tokens answers {"prompts": [...], "completion_ids":
    [[...]]} with {"token_rewards": [...]}, which RemoteReward(url, tokens=True) asks at every step. Ctrl-C ends it.
    """
    require("fastapi", "uvicorn")
    check_names(reward=reward)
    token = None
    if token_env is not None and not (token := os.environ.get(token_env)):
        raise ConfigError(f"the environment variable {token_env!r}, which --token-env names, is not set")
    from textrl_agents.reward_models.serving import listening, reward_app
    from textrl_agents.reward_models.serving import serve as answer
    from textrl_env.rewards import make_reward, reward_name

    set_threads(threads)
    with listening(host, port) as listener:
        with told_on_stderr() as tell:
            tell(f"loading {reward}")
            made = make_reward(reward)
        application = reward_app(made, max_batch=max_batch, max_bytes=max_bytes, token=token, end=query_end)
        if host not in LOOPBACK and token is None:
            typer.echo("note: other machines can ask without a token; --token-env asks for one", err=True)
        shown_host = f"[{host}]" if ":" in host else host
        address = f"http://{shown_host}:{listener.getsockname()[1]}"
        typer.echo(f"{reward_name(made)} answers at {address}; train with: textrl train --reward {address}", err=True)
        answer(application, listener)
