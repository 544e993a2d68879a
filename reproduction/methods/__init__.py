"""What only the programme calls: rivals of eigenvectors, transcoders, and the statistics of images of weights."""
