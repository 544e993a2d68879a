"""The founding programme, measured again over seeds; over public names of bilens only, and no part of its wheel.

`python -m reproduction svd --seeds 5` in a clone runs a recipe. `recipes` holds one experiment per file, `methods` what
only they call, and `text` the prose of the page of results.
"""
