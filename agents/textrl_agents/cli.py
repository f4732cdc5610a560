"""The `textrl` command. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from textrl_agents.commands import (
    bench,
    check,
    demo,
    evaluate,
    feedback,
    generate,
    loop,
    models,
    pretrain,
    push,
    reward,
    sft,
    train,
)
from textrl_agents.training.extras import missing_extra
from textrl_env.errors import ConfigError, TextRLError
from textrl_env.foreign_text import visible


class _Commands(TyperGroup):
    """Reports errors that a user can act on in one line on stderr. Other errors keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # the reader has gone, as in `textrl ... | head`; click handles it
        except Exception as raised:
            error = missing_extra(raised) or raised
            if not isinstance(error, (TextRLError, OSError)):
                raise
            if ctx.params.get("debug"):
                typer.echo(visible(traceback.format_exc()), err=True)
            said: list[str] = [str(error), *getattr(error, "__notes__", [])]
            sentences = [*(f"{part.rstrip().removesuffix('.')}." for part in said[:-1]), said[-1]]
            message = " ".join(" ".join(sentences).split())
            typer.secho(f"error: {visible(message)}", fg="red", err=True)
            raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from raised
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from textrl_env import __version__

        typer.echo(f"textrl {__version__}")
        raise typer.Exit()


@app.callback()
def textrl(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of every error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Align language models with stock RL libraries, in a real Gymnasium environment."""


app.command("train")(train.train)
app.command("eval")(evaluate.evaluate)
app.command("generate")(generate.generate)
app.command("sft")(sft.sft)
app.command("pretrain")(pretrain.pretrain)
app.command("loop")(loop.loop)
app.command("push")(push.push)
app.command("check")(check.check)
app.command("demo")(demo.demo)
app.add_typer(bench.app, name="bench")
app.add_typer(feedback.app, name="feedback")
app.add_typer(models.app, name="models")
app.add_typer(reward.app, name="reward")


def main() -> None:
    """Run the command line. An unforeseen error keeps its traceback, without control characters in it."""
    try:
        app()
    except Exception:
        typer.echo(visible(traceback.format_exc()), err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
