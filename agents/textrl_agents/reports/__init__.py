"""Reports as Markdown and as one HTML page: what they are made of, how they are rendered, their intervals."""
