"""How the embedded models are made: `python -m textrl_env.embedded.build`. README.md says how, and how good they are.

The files lie here too, and `textrl_env.models.storage.embedded` loads them. Nothing imports this package at run time.
"""
