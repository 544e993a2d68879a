"""Reading features from a layer: one analysis a file, the table of them, and the main jobs that run them."""
