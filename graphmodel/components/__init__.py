"""Trunks, heads and the operations between them; one file per family, found by their registered names."""
