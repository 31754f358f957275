"""Every number through every op, and grids of labels and predictions through every loss."""
