"""Agents that steer a training run: tables, stock SB3 and RLlib, and PPO as the run that is steered."""
