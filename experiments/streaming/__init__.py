"""A stream of single images that changes on the way."""
