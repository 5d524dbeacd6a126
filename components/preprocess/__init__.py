"""Preprocess: a cohort becomes arrays on one time grid, with the split and the folds."""
