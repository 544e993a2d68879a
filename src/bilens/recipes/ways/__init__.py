"""The founding draft's four ways to read features from a layer, one a file, each with a score of its faithfulness."""
