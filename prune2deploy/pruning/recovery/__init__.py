"""Changing the weights that are left so that the pruned model computes what the dense one did."""
