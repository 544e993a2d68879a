"""An output of a bilinear layer is a quadratic form: its kernel, and the patterns that the kernel is made of."""

import torch

from bilens import BilinearTensor, Space, decompose

generator = torch.Generator().manual_seed(0)
pixels, classes = Space("pixels", 16, image=(4, 4)), Space("classes", 3, labels=("cat", "dog", "cow"))
W, V = torch.randn(2, 20, 16, generator=generator, dtype=torch.float64)
D = torch.randn(3, 20, generator=generator, dtype=torch.float64)
x = torch.randn(5, 16, generator=generator, dtype=torch.float64)

B = BilinearTensor.from_layer(W, V, D, input=pixels, output=classes)  # 700 numbers instead of 768
dog = B.kernel("dog")
spectrum = decompose.eigh(dog, k=4)

error = (B(x)[:, 1] - spectrum.reconstruct(x)).abs()
bound = spectrum.bound(B.input.fold(x).norm(dim=1))
print("eigenvalues kept:", [round(value, 2) for value in spectrum.values.tolist()])
print(f"largest error {float(error.max()):.1f}, certified to be at most {float(bound.max()):.1f}")
