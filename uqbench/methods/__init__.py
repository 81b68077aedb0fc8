"""Uncertainty methods, one file each, all in the same order: settings, prepare, stages, loss, predict."""
