"""Which units a model can do without, and how the rest makes up for them.

To add a method, write one file that ends in a `Method` and name it in `registry.py`: a `search` from costs and a
budget to a plan, and the `steps` of recovery that follow. Every method is measured the same way by `stage.py`.
"""
