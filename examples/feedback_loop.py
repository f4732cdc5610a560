"""Two rounds of feedback: annotators compare the model's responses, a reward model learns from them, PPO from that.

python examples/feedback_loop.py            # offline, about three minutes on one core

The annotators are simulated here: three who know the gold score, and give the wrong answer in a tenth of the cases.
With ask="page" people vote in their browser instead. A loop that was stopped goes on when it is started again.
"""

import argparse

from textrl_agents.feedback.loop import LoopSettings, run_loop

parser = argparse.ArgumentParser()
parser.add_argument("--out", default="runs/feedback-loop")
parser.add_argument("--comparisons", type=int, default=250)
parser.add_argument("--timesteps", type=int, default=24_576, help="generated tokens of each round")
arguments = parser.parse_args()

result = run_loop(
    arguments.out,
    LoopSettings(
        task="sentiment",
        rounds=2,
        comparisons=arguments.comparisons,
        error_rates=(0.1, 0.1, 0.1),
        timesteps=arguments.timesteps,
    ),
    told=print,
)

for each in result.rounds:
    gained = each.gain["gold_score"]
    print(f"round {each.number}: gold score {each.start['gold_score']} -> {each.end['gold_score']}, gained {gained}")
for sample in result.rounds[-1].samples:
    print(f"{sample['prompt']!r}\n  before: {sample['start']!r}\n  after:  {sample['end']!r}")
print("report:", result.folder / "report.md")
