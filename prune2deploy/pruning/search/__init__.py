"""Which widths to choose: costs, the knapsack over them, and the closed loop with measured engines."""
