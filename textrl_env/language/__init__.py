"""The grammar, the words and the rule-based judges that the built-in tasks and the embedded models are made with."""
