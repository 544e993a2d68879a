"""The kernel of every feature of a dictionary: top eigenpairs of all of them, written as they come, resumable."""

import tempfile

import torch

from bilens import BilinearTensor, Dictionary, Space, decompose, store

generator = torch.Generator().manual_seed(0)
x, y = Space("residual stream in", 96), Space("residual stream out", 96)
W, V = torch.randn(2, 256, 96, generator=generator)
B = BilinearTensor.from_layer(W, V, torch.randn(96, 256, generator=generator), input=x, output=y)
features = Dictionary.from_atoms(torch.randn(300, 96, generator=generator), y)  # an SAE's decoder, say

with tempfile.TemporaryDirectory() as folder:
    stream = decompose.spectra_stream(B, features, k=8, batch_size=64)
    store.save_batches(stream, folder, progress=False)  # stopped or killed, it goes on where it was
    spectra = decompose.Spectra.join(list(store.load_batches(folder, decompose.Spectra)), B.read(features).output)

energies = decompose.squared_norms(B, features)  # ‖Q‖² of every kernel, none of which was formed
kept = spectra.values.square().sum(dim=1) / energies
print(f"{len(spectra)} kernels, {int(spectra.exact.sum())} of them solved to {spectra.tol:.0e}")
print(f"their top 8 of 96 eigenvalues hold {float(kept.mean()):.0%} of the energy")
