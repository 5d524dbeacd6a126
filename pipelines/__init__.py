"""The pipeline, its settings, its runners and the command line."""
