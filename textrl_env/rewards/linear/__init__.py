"""A linear model on features of prompt and response.

features.py         what features are, and how they are loaded
hashed_ngrams.py    counts of word or character n-grams, hashed
hidden_states.py    pooled hidden states of a frozen language model or classifier
linear_reward.py    LinearReward
"""
