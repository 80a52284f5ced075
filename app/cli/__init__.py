"""The commands of `python -m app` beside serving."""
