"""From a pruned model to a package that a server loads."""
