"""Is the exported artifact what was promised? Numerics, task metric and measured latency, and the report of them."""
