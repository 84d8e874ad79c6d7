"""Helpers that tests share: tolerances, oracles, the place of real sample data."""
