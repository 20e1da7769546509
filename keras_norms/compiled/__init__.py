"""Compiled libraries as files: where they lie, whether they are intact and whose they are."""
