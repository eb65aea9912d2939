"""Latency tables: what one block costs at each width, measured in the runtime that will serve the model."""
