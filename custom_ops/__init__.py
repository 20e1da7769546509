"""The sources of the compiled library, and what builds them."""
