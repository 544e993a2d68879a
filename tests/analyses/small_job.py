"""The main job on the 8×8 digits, small enough to run in a test."""

BUDGET = ["--count", "3", "--sae-steps", "25", "--pair-features", "64", "--pair-steps", "15"]
FLAGS = ["--data", "digits", "--hidden", "24", "--epochs", "12", "--noise", "0.1", *BUDGET]
