"""Whole experiments as plain functions, one a file; the command line runs them."""
