"""Which parts of a model can be pruned, and how they are removed.

To add a family, write one file that ends in a `Family` (`bert.py` is the shortest example) and name it in
`registry.py`. Nothing outside this folder knows a family by name. The tests of this folder run over every family.
"""
