"""Text and token ids: where prompts come from, how they are split and encoded, and what ends a response."""
