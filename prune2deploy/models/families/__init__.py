"""A file for the families of one structure: where their blocks are. A file here is all that a new one needs."""
