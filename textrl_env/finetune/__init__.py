"""An environment whose state is a training run, and whose actions change it: `TextRLHF-FineTune-v0`."""

from textrl_env.finetune.env import FineTuneEnv
from textrl_env.finetune.training_run import Measurement, Settings, TrainingRun

__all__ = ["FineTuneEnv", "Measurement", "Settings", "TrainingRun"]
