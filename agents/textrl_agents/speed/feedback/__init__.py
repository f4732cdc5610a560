"""Rows on people's feedback: the store, and the annotation page."""
