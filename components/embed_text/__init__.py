"""The ``embed_text`` step."""
