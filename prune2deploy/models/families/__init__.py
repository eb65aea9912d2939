"""One file a family: where its blocks are. A file here is all that a new family needs."""
