"""Counts are those of the published widths."""

from tests.full_width import small, two_inputs  # noqa: F401
