"""Pairs of inputs are a basis for outputs: an SAE over pair vectors, without data, is a model of the layer."""

import torch

from bilens import ImageClassifier, Space, pairs, sae

H = ImageClassifier(Space("pixels", 16, image=(4, 4)), Space("classes", 3), hidden=12, bias=True).layer.tensor()
stream = pairs.stream(H, batch_size=64)  # every pair of pixels (and the constant) once an epoch
coder = sae.TopKSAE(H.output.dim, 48, k=6)
sae.train(coder, stream, steps=300, device="cpu", progress=False)

codes = H.input.fold(torch.rand(100, 16, generator=torch.Generator().manual_seed(0)))
with torch.no_grad():
    rebuilt = pairs.contract(H, codes, coder)  # Aᵀ(Σ a_i a_j f_ij) + (Σ a)² b_dec
outputs = pairs.contract(H, codes)  # Σ a_i a_j r_ij, the layer itself
print(f"{stream.rows} pairs: NMSE on pairs {sae.evaluate(coder, stream).nmse:.3f}")
print(f"NMSE on the layer's outputs {float(sae.nmse(outputs, rebuilt)):.3f}: the first does not bound the second")
