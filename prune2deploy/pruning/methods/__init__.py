"""Pruning methods: ours, and the baselines that it is compared with."""
