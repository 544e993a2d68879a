"""The experiments of the founding programme, one per file."""
