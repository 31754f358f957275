"""Kills trainings at random moments and holds how they end against runs that were not killed."""
