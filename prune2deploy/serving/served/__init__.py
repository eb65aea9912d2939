"""What runs inside the server: these files are copied into packages and import nothing of prune2deploy."""
