"""Supervised fine-tuning: demonstrations into a policy folder, by TRL's stock `SFTTrainer`."""

from textrl_agents.trl.sft.settings import SFTSettings
from textrl_agents.trl.sft.train import SFTResult, train_sft

__all__ = ["SFTResult", "SFTSettings", "train_sft"]
