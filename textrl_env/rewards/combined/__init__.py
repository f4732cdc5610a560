"""Rewards made of other rewards.

parts.py        what they have in common: the parts' names and states
composite.py    a weighted sum
ensemble.py     several models of one thing: mean, worst case, mean minus a charge for their variance
normalized.py   one reward, shifted, scaled and clipped
"""
