"""Data in, batches out, and what a good answer is.

To add a task, write one file that ends in a `Task` and name it in `registry.py`. Nothing outside this folder knows
what an input is made of: text, pixels or anything else.
"""
