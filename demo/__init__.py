"""A small CLIP model of coloured shapes, trained from drawn pictures and written captions."""
