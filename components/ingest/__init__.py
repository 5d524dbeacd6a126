"""The ``ingest`` step."""
