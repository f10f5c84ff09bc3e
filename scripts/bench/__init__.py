"""Measurements: of serving, of training, and what follows from them."""
