"""Reward models: trained on feedback, and served to others."""
