"""Metrics, intervals, paired tests, calibration, plots and the report: pure functions on arrays."""
