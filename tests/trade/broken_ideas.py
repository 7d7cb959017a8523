"""A module that fails while it is imported."""

answer = 1 // 0
