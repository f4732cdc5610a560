"""The questions that annotators are asked: read from a file, or made of policies' responses to prompts."""
