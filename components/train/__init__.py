"""The ``train`` step."""
