"""The pseudoinverse trick: features of a sparse autoencoder on a layer's outputs, read as functions of the pixels."""

from bilens import data, decompose, models, sae

digits = data.load("digits")
model = models.ImageClassifier(digits.input, digits.output, hidden=40)
images, labels = digits.train.images, digits.train.labels
models.train(model, images, labels, epochs=5, weight_decay=0.1, lr=1e-2, device="cpu", progress=False)
outputs = model.hidden_outputs(images).detach()

coder = sae.StandardSAE(40, 80)
sae.train(coder, sae.TensorStream(outputs, batch_size=256), steps=200, l1=5.0, lr=1e-2, device="cpu", progress=False)
measured = sae.evaluate(coder, outputs)
dictionary = coder.dictionary(model.layer.output, active=measured.active)

F = model.layer.tensor().read(dictionary)  # pixels → codes: still a tensor, so each feature has a kernel
spectrum = decompose.eigh(F.kernel(0), k=6)
print(f"{int(measured.active.sum())} active features of rank {dictionary.rank}, {measured.l0:.1f} at a time")
print(f"feature {F.output.label(0)}: eigenvalues {[round(value, 2) for value in spectrum.values.tolist()]}")
