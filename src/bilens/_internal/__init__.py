"""What the files of bilens share and nobody else should import: it may change at any time."""
