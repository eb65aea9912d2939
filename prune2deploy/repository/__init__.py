"""A Triton model repository: what lies in it, how it is written, changed and checked."""
