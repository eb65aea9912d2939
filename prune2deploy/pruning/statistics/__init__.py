"""What is measured of a model over calibration samples, and what removal costs by it."""
