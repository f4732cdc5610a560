"""Pretraining with preferences: a corpus and a reward into a policy folder (Korbak et al. 2023).

documents/         read from a corpus, cut into pieces, scored, and told apart by a threshold
objectives.py      the six objectives; losses.py: their losses of tokens
control_tokens.py  the tokens of conditional training
data.py, rows.py   scored documents as rows of ids
trainer.py         the trainer of transformers with such a loss
train.py, run.py   from a corpus to the folder
"""
