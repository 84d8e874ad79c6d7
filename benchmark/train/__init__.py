"""Measurements of training runs."""
