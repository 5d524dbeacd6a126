"""Figures on speed and memory, printed by ``make bench``; never tests."""
