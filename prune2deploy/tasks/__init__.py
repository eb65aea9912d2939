"""Data in, batches out, and what a good answer is.

To add a task, write one file that ends in a `Task` and name it in `registry.py`. A task is data, an objective
(`objectives.py`: what statistics, judging and training ask of its outputs) and a metric (`metrics.py`). Nothing outside
this folder knows what an input is made of: text, pixels or anything else.
"""
