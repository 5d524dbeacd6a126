"""The ``compare`` step."""
