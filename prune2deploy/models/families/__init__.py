"""A file for the families of one structure: where their blocks are, in `FAMILIES`. A file here is all that a new one needs."""
