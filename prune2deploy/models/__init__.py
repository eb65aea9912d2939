"""Which parts of a model can be pruned, and how they are removed.

To add a family, write one file of data in `families/` (`bert.py` is the shortest example); nothing else names it. The
tests of all families then run over it, and fail until it has a tiny configuration in `tests/structures.py`.
"""
