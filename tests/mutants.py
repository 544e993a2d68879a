"""Plant errors in the code, one at a time, and run the tests that should notice: `make mutants` prints the survivors.

Each mutant names a text that stands exactly once in `src/bilens`, what replaces it, and the tests that are to fail. A
copy of the tree is changed, never the tree itself.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).parents[1]
SECONDS = 600
"""After so long a mutant counts as noticed: a loop that never ends is an error that nobody overlooks."""


@dataclass(frozen=True)
class Mutant:
    """An error to plant.

    Args:
        name: what is wrong with it; text: what stands in the code, once; becomes: what replaces it.
        tests: files, folders or tests that are to notice, below `tests`.
    """

    name: str
    text: str
    becomes: str
    tests: tuple[str, ...]


def _(name: str, text: str, becomes: str, *tests: str) -> Mutant:
    return Mutant(name, text, becomes, tests)


MUTANTS = (
    # The tensor and its kernels
    _("the other order of a bilinear product is the same one",
      "+ (x @ self.right.T) * (y @ self.left.T)", "+ (x @ self.left.T) * (y @ self.right.T)",
      "test_tensor.py", "test_identities.py"),
    _("a bilinear product without its half", "(both / 2) @ self.down.T", "both @ self.down.T", "test_identities.py"),
    _("centred over hidden units instead of outputs", "self.down.mean(dim=0, keepdim=True)",
      "self.down.mean(dim=1, keepdim=True)", "test_identities.py"),
    _("codes by atoms instead of duals", "factors.given(d.duals, self.down, False)",
      "factors.given(d.atoms, self.down, False)", "test_identities.py"),
    _("the offset added to outputs before they are read", "self.shift(-d.offset", "self.shift(d.offset",
      "test_tensor.py", "test_identities.py"),
    _("the pullback by duals", "return tensor._mapped(d.atoms, d.features)",
      "return tensor._mapped(d.duals, d.features)", "test_identities.py"),
    _("a dense kernel of one triangle", "dense = (half + half.T) / 2", "dense = half", "test_tensor.py"),
    _("the linear part without its 2", "2 * q[:-1, -1]", "q[:-1, -1]", "test_tensor.py", "test_identities.py"),
    _("blocks of the hidden Gram not mirrored", "gram[:start, rows] = gram[rows, :start].T",
      "gram[:start, rows] = 0", "test_tensor.py", "decompose/test_svd.py"),
    _("half of a matvec twice", "two = ((v @ self.left.T) * self.weights) @ self.right",
      "two = ((v @ self.right.T) * self.weights) @ self.left", "test_tensor.py"),
    _("a rank of one per hidden unit", "2 * int((self.weights != 0).sum())", "int((self.weights != 0).sum())",
      "test_tensor.py", "test_identities.py"),
    _("a difference of kernels that is their sum", 'b.weights if sign == "+" else -b.weights', "b.weights",
      "test_tensor.py"),
    _("sizes of one name not compared", "        sizes.update(zip(axes, shape, strict=True))\n", "",
      "test_checks.py"),
    _("weights taken for finite where one sum is", "if not holds(torch.isfinite(value.detach().sum()), True)",
      "if holds(torch.isfinite(value.detach().sum()), True)", "test_vectors_given.py", "test_tensor.py"),
    # Dictionaries
    _("codes among some atoms without the offset", "(y - self._offset).double() @ atoms.T", "y.double() @ atoms.T",
      "test_dictionary.py"),
    _("small singular values inverted", "kept = s > rtol * s[0]", "kept = s > 0", "test_dictionary.py"),
    # Pairs
    _("every epoch in the same order", "derived(epoch, self.seed)", "self.seed", "pairs/test_pair_streams.py"),
    _("the first pair's importance read off the last", "torch.where(places > 0, self.ends[places - 1], 0)",
      "self.ends[places - 1]", "pairs/test_pair_streams.py"),
    _("pairs of a feature with itself counted twice", "return 2 - (i == j).to(i.dtype)", "return 2 + 0 * i",
      "pairs"),
    _("a Feistel round less", "for turn in range(4):", "for turn in range(1):", "pairs/test_pair_order.py"),
    # Spectra and decompositions
    _("the energy of the kept pairs alone", "energy = fitting(values.square().sum(), 2 * power",
      "energy = fitting(values[:kept].square().sum(), 2 * power", "decompose/test_eigen.py"),
    _("a certificate of half the largest |λ| that is left",
      "rest = values[k].abs() if k < len(values) else values.new_zeros(())",
      "rest = values[k].abs() / 2 if k < len(values) else values.new_zeros(())",
      "decompose/test_eigen.py", "test_identities.py"),
    _("the bound of an SVD without what was not computed",
      "first = (left.clamp(min=0) + 2 * unit * energy).sqrt()", "first = torch.zeros_like(left)",
      "decompose/test_svd.py"),
    _("one component too many kept", "outputs, tensor = self.outputs[:k].double()",
      "outputs, tensor = self.outputs[: k + 1].double()", "decompose/test_svd.py"),
    _("a term of the input's Gram transposed", "(crossed.T @ left + (outer * (left @ left.T))",
      "(crossed @ left + (outer * (left @ left.T))", "decompose/test_hosvd.py"),
    _("directions dropped from one side alone", "off = (2 * rest).sqrt()", "off = rest.sqrt()",
      "decompose/test_hosvd.py", "decompose/test_certificates.py"),
    _("residuals among features without their Gram", "(left * (left @ small.gram.double()))", "(left * left)",
      "decompose/test_features.py"),
    _("interactions off the diagonal once instead of twice",
      "rows = stream.batch(n) * pairs.multiplicity(*stream.pairs(n))[:, None]", "rows = stream.batch(n)",
      "decompose/test_interactions.py"),
    _("the participation ratio without its square", "squares.sum().square() / squares.square().sum()",
      "squares.sum() / squares.square().sum()", "decompose/test_interactions.py"),
    _("signs as the solver leaves them", "return torch.where(peak < 0, -vectors, vectors)", "return vectors",
      "decompose/test_eigen.py"),
    # Many kernels
    _("a chance of a wrong bound a million times as large", "return 1e-6 if dtype == torch.float64 else 1e-3",
      "return 1.0 if dtype == torch.float64 else 1e3", "decompose/test_many.py"),
    _("no second witness for an eigenvalue", "exact=answer.exact & (apart <=", "exact=answer.exact | (apart <=",
      "decompose/test_many.py"),
    _("the residuals of a search not looked at", "exact = complete & (residuals.amax(dim=1) <= ask.tol * scale)",
      "exact = complete", "decompose/test_many.py"),
    # Sparse autoencoders
    _("constants of products in bfloat16 rounded once", "self.constants = 1 if products == rows.dtype else 2",
      "self.constants = 1", "sae/test_gradients.py"),
    _("the penalty's gradient not divided by the batch", "slope = summed * (self.l1 * self.weight)",
      "slope = summed * self.l1", "sae/test_gradients.py"),
    _("no decay of the learning rate", "fall = (steps - step) / (decay * steps) if decay > 0 else 1.0", "fall = 1.0",
      "sae/test_sae_train.py"),
    _("no warm-up of the learning rate", "rise = (step + 1) / (warmup * steps) if warmup > 0 else 1.0", "rise = 1.0",
      "sae/test_sae_train.py"),
    _("the spread of batches around their own means alone",
      "(y - centre).square().sum() + (centre - mean).square().sum() * (rows * len(y) / (rows + len(y)))",
      "(y - centre).square().sum()", "sae/test_sae_metrics.py"),
    _("norms of rows not moved into the encoder's bias", "    sae.b_enc.mul_(norm)\n", "", "sae"),
    # Other people's coders
    _("a transcoder of sparsify that subtracts b_dec", '{"apply_b_dec_to_input": not transcode, "k": k}',
      '{"apply_b_dec_to_input": True, "k": k}', "sae/test_formats.py"),
    _("the factor of vectors folded without b_dec", 'for name in ("W_dec", "b_dec")}', 'for name in ("W_dec",)}',
      "sae/test_formats.py"),
    _("a skip connection the other way round", "y + x @ self.W_skip.T", "y + x @ self.W_skip",
      "sae/test_foreign_coders.py"),
    _("codes below 0 that do not count as large", "top_k(pre.abs(), coder.k)", "top_k(pre, coder.k)",
      "sae/test_formats.py"),
    _("vectors of another site without a word", "float(error) > float(spread) > 0", "float(error) > 2 * float(spread)",
      "sae/test_foreign_coders.py"),
    _("the two numbers of a byte in the other order",
      "sizes[(blocks & 15).long()], sizes[(blocks >> 4).long()]",
      "sizes[(blocks >> 4).long()], sizes[(blocks & 15).long()]", "models/test_gated_quantised.py"),
    # Training, schedules, checkpoints
    _("the same noise in every step", 'named(seed, "noise", done)', 'named(seed, "noise", 0)',
      "models/test_train_classifier.py"),
    _("no second fall of the learning rate", "0.1 if 100 * step < 85 * steps else 0.01", "0.1",
      "models/test_train_classifier.py"),
    _("a checkpoint however long the last one took", "max(seconds, 20 * self._took)", "seconds",
      "test_checkpoint.py"),
    _("the mean of standardised images forgotten", "offset = -(mean / std) * sums", "offset = 0 * sums",
      "models/test_classifier.py"),
    # Scores and statistics
    _("the baseline of ten classes for all", "recovered = ce_loss_score(loss, own, baseline)",
      "recovered = ce_loss_score(loss, own, math.log(10))", "test_faithfulness.py"),
    _("an interval of one side", "stdtrit(n - 1, (1 + level) / 2)", "stdtrit(n - 1, level)", "test_statistics.py"),
    _("the variance of a sample divided by n", "for value in samples) / (n - 1)", "for value in samples) / n",
      "test_statistics.py"),
    # What is shown
    _("an input pair's strength without its 2", "dense[i, j] * (1 + (i < j).to(dense))", "dense[i, j]",
      "test_feature_sets.py"),
    _("the smallest samples are the largest", "torch.cat([order[:few], order.flip(0)[:few]])",
      "torch.cat([order[:few], order[:few]])", "test_feature_sets.py"),
    _("blue and red of bars swapped", "color=[colors[0] if value > 0 else colors[1] for value in values[largest]]",
      "color=[colors[1] if value > 0 else colors[0] for value in values[largest]]", "test_plots.py"),
    _("blue and red of effects swapped", "color=[POSITIVE if value > 0 else NEGATIVE for value in values]",
      "color=[NEGATIVE if value > 0 else POSITIVE for value in values]", "test_plots.py"),
    _("the colour of an eigenvalue's sign swapped", "color = POSITIVE if kernel.value > 0 else NEGATIVE",
      "color = NEGATIVE if kernel.value > 0 else POSITIVE", "test_plots.py"),
    _("blue and red of a notebook's bars swapped", "(zero, POSITIVE) if size >= 0 else (zero - width, NEGATIVE)",
      "(zero, NEGATIVE) if size >= 0 else (zero - width, POSITIVE)", "test_shown.py"),
    _("linear kernels scaled by λ", "np.sqrt(abs(values[i])) * vectors[i]", "abs(values[i]) * vectors[i]",
      "test_plots.py"),
    _("pixels of a page a little darker", '"scale": [1 / 255] * len(values)', '"scale": [1 / 256] * len(values)',
      "explorer/test_page.py"),
    # Language models
    _("gate and up of one matrix the other way round", 'value[:middle] if what == "gate" else value[middle:]',
      'value[middle:] if what == "gate" else value[:middle]', "models/test_gated.py"),
    _("alternating rows the other way round", 'value[0::2] if what == "gate" else value[1::2]',
      'value[1::2] if what == "gate" else value[0::2]', "models/test_gated.py"),
    _("Gemma's gain without its 1", 'kind, gain + 1 if layout.gain == "1+w" else gain', "kind, gain",
      "models/test_gated.py"),
    _("a matrix the way round that it is stored", "value = value.mT if place.layout.transposed else value",
      "value = value.clone()", "models/test_gated.py"),
    _("a norm's gain in one factor only",
      "left, right = left * self.norm.gain.to(left), right * self.norm.gain.to(right)",
      "left, right = left * self.norm.gain.to(left), right", "models/test_gated.py"),
    _("every expert is the first", "row = expert if layout.stacked else None", "row = 0 if layout.stacked else None",
      "models/test_gated_families.py"),
    _("values beyond a limit are kept", "v = v.clamp(-self.limit, self.limit)", "v = v.clamp(max=self.limit)",
      "models/test_gated_families.py"),
    _("the check compares ours with ours", "y = ours(trace.input)", "y = theirs = ours(trace.input)",
      "analyses/test_language_commands.py"),
    _("sizes of the config believed", "if any(type(size) is int and size != got for", "if all(type(size) is str for",
      "models/test_gated.py"),
    _("a read-out's bias left out of an imported classifier",
      'f = _sum(None if e is None else head.double() @ e, wide["head"])', 'f = wide["head"]',
      "analyses/test_language_commands.py"),
    _("a projection with a wrong third coefficient", "slope * (f1 + 3 * f3)", "slope * (f1 + f3)",
      "models/test_surrogate.py"),
    _("a surrogate's linear rest left out of its tensor",
      "linear = down @ (self.gate[:, None] * w + self.value[:, None] * v)",
      "linear = down @ (self.gate[:, None] * w)", "models/test_surrogate.py"),
    _("least squares that forget the means", "c - 2 * b * mean_z - a * mean_v,", "c - a * mean_v,",
      "models/test_surrogate.py"),
    _("a bypass of inputs without their gain",
      "(self.bypass if mlp.norm.gain is None else self.bypass * mlp.norm.gain.double())", "self.bypass",
      "models/test_surrogate.py"),
    _("the layer that was replaced stays", "torch.cat([y[:prefix], stand_in(x[prefix:]).to(y)])", "y",
      "models/test_replaced.py"),
    # Converting a language model
    _("every token counts the same", "return 1 / t.square().mean(dim=-1).clamp",
      "return 1 + 0 * t.square().mean(dim=-1).clamp",
      "models/test_conversion.py"),
    _("half of a Gram matrix", "gram = gram + gram.tril(-1).T", "gram = gram + 0", "models/test_conversion.py"),
    _("the linear map's units without their 1", "torch.cat([self.right_bias, ones])",
      "torch.cat([self.right_bias, 0 * ones])",
      "models/test_conversion.py"),
    _("steps kept whatever they do", "if error < least:", "if error > 0:", "models/test_conversion.py"),
    _("distillation kept whatever it does", "if not after < before:", "if False:",
      "models/test_converted_checkpoint.py"),
    _("rates by the mean column of a matrix", "columns.median()", "columns.mean()", "models/test_conversion.py"),
    _("steps by the squared error itself", "(x + more - t).square().mean(dim=-1)).log1p().sum()",
      "(x + more - t).square().mean(dim=-1)).sum()", "models/test_conversion.py"),
    _("steps with factors that are not rounded", "nullcontext() if products is None else",
      "nullcontext() if True else", "models/test_conversion.py"),
    _("distillation that moves the first token", ".sum(dim=0) / size", ".sum(dim=0) * 0 / size",
      "models/test_converted_checkpoint.py"),
    _("distillation that goes on from its first step", "for number in range(done, steps):",
      "for number in range(steps):", "models/test_converted_checkpoint.py"),
    _("what a layer adds, as if texts were not the same", "stdev(map(sub, one.deltas, before))",
      "stdev([*one.deltas, *before])", "analyses/test_convert.py"),
    _("a layer's page of any size", "if size <= MOST or", "if size <= 2 * MOST or",
      "analyses/test_language_page_size.py"),
    _("ridge for D without its damping", "change = torch.linalg.solve(spread + torch.diag",
      "change = torch.linalg.solve(spread + 0 * torch.diag", "models/test_surrogate.py"),
    _("statistics that begin anew", "sums, done = {one.layer: [getattr(one, name).clone()",
      "sums, done = {one.layer: [0 * getattr(one, name).clone()", "models/test_token_statistics.py"),
    _("the sums of products of squares", "n.T @ (zs * vs)", "n.T @ (zs * zs)", "models/test_token_statistics.py"),
    # The strongest interactions and kernels in a metric
    _("interactions off the diagonal listed with half their strength",
      "exact * pairs.multiplicity(first, second) * size", "exact * size", "decompose/test_strongest.py"),
    _("pairs below the diagonal listed again", ".tril_(-1), -1)", ".tril_(-1), 0)", "decompose/test_strongest.py"),
    _("pairs of a feature with itself ranked as those of two", "            block.diagonal().div_(2**0.5)\n", "",
      "decompose/test_strongest.py"),
    _("the k-th largest of near ones as float32 has it", "< ROUNDING * seen", "< -1", "decompose/test_strongest.py"),
    _("as many samples expected as have the first feature", "share[first] * share[second]", "share[first]",
      "decompose/test_strongest.py"),
    _("rounding of vectors back from a metric not allowed for", "+ 2 * off", "+ 0 * off", "decompose/test_metric.py"),
    _("a bound on outputs without the number of inputs", "* self.input.dim**0.5 * (1 + 1e-12)", "* 0.1",
      "decompose/test_metric.py"),
    _("every process writes every batch", "for n in range(rank, len(batches), size)", "for n in range(len(batches))",
      "decompose/test_metric.py", "test_store_batches.py"),
    # Tables
    _("a batch of other weights taken for this one", 'if header.get("source") != source:', "if False:",
      "test_tables.py"),
    _("a damaged batch taken for whole",
      "ParquetFile(path, page_checksum_verification=True).read()\n        except (pa.ArrowException",
      "read_schema(path)\n        except (pa.ArrowException", "test_tables.py"),
    _("SQL that is no question is run", 'if kinds != ["SELECT"]:', "if not kinds:", "test_tables.py"),
    _("SQL reads other files", '    "enable_external_access": False,\n', "", "test_tables.py"),
    _("SQL reads variables of Python", '"python_enable_replacements": False', '"python_enable_replacements": True',
      "test_tables.py"),
    _("links in tables are followed", "follow_symlinks=False", "follow_symlinks=True", "test_tables.py"),
    _("batches that were written since are not seen", "self._connection is None or found != self._listed",
      "self._connection is None", "test_tables.py"),
    _("control characters of a label reach the terminal", "c if c.isprintable() else ascii(c)[1:-1]", "c",
      "test_tables.py"),
)  # fmt: skip


def texts(source: Path) -> dict[Path, str]:
    """Every file of the code."""
    return {path: path.read_text("utf-8") for path in sorted(source.rglob("*.py"))}


def place(mutant: Mutant, texts: dict[Path, str]) -> Path:
    """The one file whose text holds the mutant's, once."""
    holding = {path: text.count(mutant.text) for path, text in texts.items() if mutant.text in text}
    if list(holding.values()) != [1]:
        where = ", ".join(f"{path}: {count}" for path, count in holding.items()) or "no file"
        raise LookupError(f"{mutant.text!r} should stand once in the code, and does in {where}")
    return next(iter(holding))


def noticed(mutant: Mutant, tree: Path) -> bool:
    """Whether a test of a copy of the tree fails with the mutant planted into it; the copy is left as it was."""
    code = texts(tree / "src")
    path = place(mutant, code)
    before = code[path]
    path.write_text(before.replace(mutant.text, mutant.becomes), "utf-8")
    try:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider"]
        command += [f"tests/{test}" for test in mutant.tests]
        environment = os.environ | {"PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1", "CI": "1"}
        environment |= {"HYPOTHESIS_PROFILE": "noticing"}
        run = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return True
    finally:
        path.write_text(before, "utf-8")
    if run.returncode not in (0, 1):  # 0: passed, 1: a test failed, anything else: nothing was tested
        raise RuntimeError(
            f"{mutant.name}: pytest ended with {run.returncode}\n{run.stdout[-2000:]}{run.stderr[-2000:]}"
        )
    return run.returncode == 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="mutants whose name holds this text")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="mutants at a time")
    arguments = parser.parse_args()
    mutants = [mutant for mutant in MUTANTS if arguments.only in mutant.name]
    code = texts(ROOT / "src")
    for mutant in mutants:
        place(mutant, code)
    with tempfile.TemporaryDirectory() as folder:
        trees: SimpleQueue[Path] = SimpleQueue()
        for number in range(arguments.processes):
            tree = Path(folder) / str(number)
            for name in ("src", "tests", "docs", "reproduction", "examples", "benchmarks"):
                shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
            for name in ("pyproject.toml", "README.md"):
                shutil.copy(ROOT / name, tree / name)
            trees.put(tree)

        def run(mutant: Mutant) -> bool:
            tree, started = trees.get(), time.monotonic()
            try:
                killed = noticed(mutant, tree)
            finally:
                trees.put(tree)
            said = "noticed " if killed else "SURVIVED"
            print(f"{said} {time.monotonic() - started:4.0f} s  {mutant.name}", flush=True)
            return killed

        with ThreadPoolExecutor(arguments.processes) as pool:
            survivors = [mutant for mutant, killed in zip(mutants, pool.map(run, mutants), strict=True) if not killed]
    print(f"{len(mutants)} mutants, {len(survivors)} survivors")
    for mutant in survivors:
        print(f"  {mutant.name}: {', '.join(mutant.tests)}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
