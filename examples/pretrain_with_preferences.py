"""Pretrain twice on a text with insults: plainly, and with control tokens for good and bad sentences.

Run: python examples/pretrain_with_preferences.py
"""

import argparse
import tempfile
from pathlib import Path

from textrl_agents.evaluation.generation import generate
from textrl_agents.pretraining.settings import PretrainSettings
from textrl_agents.pretraining.train import pretrain
from textrl_agents.runs.run_folder import load_policy
from textrl_env.language.insults import find_insults

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument(
    "--documents", type=int, default=6000, help="of the embedded grammar; or name your own corpus below"
)
parser.add_argument("--tokens", type=int, default=400_000, help="to train on")
arguments = parser.parse_args()

with tempfile.TemporaryDirectory() as folder:
    for objective in ("mle", "conditional"):
        settings = PretrainSettings(
            objective=objective, tokens=arguments.tokens, unmarked=0.1, checkpoints=0, samples=0
        )
        # Any reward scores the sentences: a name, a function f(prompts, completions, **columns), a folder.
        result = pretrain(
            f"grammar:{arguments.documents}",
            out=Path(folder) / objective,
            reward="no_insults",
            model="embedded",  # its architecture and tokenizer; the weights are drawn anew
            settings=settings,
        )
        # The folder's tokenizer begins every text with <|good|>, so nothing here knows which of the two it samples.
        policy = load_policy(result.folder)
        responses = [each.response for each in generate(policy, ["Tom broke my cup again and Tom is"] * 200, seed=0)]
        rude = sum(bool(find_insults(response)) for response in responses)
        print(f"{objective}: {rude / len(responses):.0%} of the responses insult, such as: Tom is{responses[0]}")
