"""The fault campaign: numbers that are not finite put into trainings, and what came of each."""
