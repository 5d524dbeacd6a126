"""The ``cross_validate`` step."""
