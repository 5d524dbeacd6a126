"""Validate: TFDV statistics, schema and anomalies of a cohort, and checks of its tables."""
