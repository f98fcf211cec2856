"""Adaptation: a CLIP made better at some classes, from few labelled, unlabelled or no pictures."""
