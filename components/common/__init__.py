"""What every step shares: atomic writes, step results, tracking."""
