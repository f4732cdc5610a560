"""Adapters that let stock RL libraries drive `textrl_env`, and the `textrl` command."""
