"""The data contracts that every step and model reads and writes."""
