"""bilens reads features straight from the weights of bilinear networks g(x) = (Wx + b) ⊙ (Vx + c)."""
