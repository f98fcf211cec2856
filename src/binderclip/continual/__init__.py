"""Room `continual`: tasks over time; what is kept of the old ones and of the open vocabulary."""
