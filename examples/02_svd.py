"""Features of a layer from its weights alone: the singular value decomposition, never building the tensor."""

from bilens import ImageClassifier, Space, decompose

model = ImageClassifier(Space("pixels", 64, image=(8, 8)), Space("digits", 10), hidden=40, bias=True)
H = model.layer.tensor()  # pixels (and the constant) → hidden units, before the read-out
top = decompose.svd(H, k=10)

kept = float(top.values.square().sum() / top.energy)
print(f"10 of {H.output.dim} components hold {kept:.0%} of the layer's energy")
print(f"the first one's strongest pattern counts {float(decompose.eigh(top.kernel(0), k=1).values[0]):+.2f}")
print(f"cosine with the whole layer: {float(top.truncate(10).cosine(H)):.3f} = √{kept:.3f}")
