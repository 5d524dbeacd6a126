"""The registered model, as those who call it see it."""
