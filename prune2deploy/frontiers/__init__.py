"""The `frontier` stage: many budgets from one pass of statistics, to choose from with `export --pick`."""
