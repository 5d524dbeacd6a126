"""Generator of the synthetic demo cohort, in the files that a hospital would export. Proves nothing clinical."""
