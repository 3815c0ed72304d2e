"""Measures: functions from maps, weights and scores to numbers, and the intervals of those."""
