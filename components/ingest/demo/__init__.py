"""A synthetic cohort in the files that a hospital would export; it proves nothing clinical."""
