"""The tables of a run: what is written is what is read, also by others; SQL reads them and nothing else."""

from __future__ import annotations

import builtins
import errno
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bilens import cli, decompose, store, tables
from bilens._internal import files
from bilens.analyses.query import visible
from bilens.decompose import Metric
from bilens.dictionary import Dictionary
from bilens.errors import BilensError, ShapeError, StoreError
from bilens.space import Space
from bilens.tensor import BilinearTensor
from messages import refuses
from oracle import near
from strategies import filled

pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("duckdb")

ROOT = Path(__file__).parents[1]
NAMES = (" thou", "</script>", "a\nb", "\u202ex", "'; DROP", "ü", "7")
HERE = {"layer": 3, "set": "tokens"}


def layer(seed: int = 0) -> tuple[BilinearTensor, Dictionary]:
    tensor = BilinearTensor(
        filled("normal", 12, 9, seed), filled("normal", 12, 9, 1), filled("normal", 7, 12, 2),
        Space("x", 8, constant=True), Space("y", 7, NAMES),
    )  # fmt: skip
    inputs = Dictionary.from_atoms(
        filled("normal", 6, 8, 3), tensor.input.without_constant(), offset=torch.zeros(8).double()
    )
    return tensor, inputs


def spectra(seed: int = 0) -> decompose.SpectraStream:
    tensor, _ = layer(seed)
    metric = Metric.from_factor(filled("normal", 40, 9, 5), tensor.input)
    return decompose.spectra_stream(tensor, None, 3, metric=metric, batch_size=3)


def pairs() -> decompose.StrongestStream:
    return decompose.strongest_stream(*layer(), None, 5, batch_size=4)


CODES = torch.relu(filled("normal", 30, 6, 8))


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A run with all tables, to be read alone."""
    folder = tmp_path_factory.mktemp("written") / "run"
    writer = tables.Writer(folder, {"job": "test"})
    tables.save_spectra(writer, spectra(), **HERE, progress=False)
    tables.save_interactions(writer, pairs(), **HERE, inputs="atoms", codes=CODES, progress=False)
    writer.write("examples", example(), **HERE)
    writer.write("audit", {"feature": [0, 0], "pairs": [2, 0], "correlation": [0.5, None], "tokens": [9, 9]}, **HERE)
    return folder


@pytest.fixture
def run(written, tmp_path) -> Path:
    """The same, to be altered."""
    shutil.copytree(written, tmp_path / "run")
    return tmp_path / "run"


def example() -> dict[str, list]:
    return {
        "feature": [0], "kind": ["largest"], "rank": [0], "document": [4], "position": [17], "value": [2.5],
        "predicted": [2.25], "focus": [1], "tokens": [[" art", "</script>"]], "values": [[0.5, 2.5]],
    }  # fmt: skip


def test_features_and_eigenpairs_are_those_of_the_spectra(run):
    asked = tables.open(run)
    whole = decompose.eigh_many(spectra().tensor, None, 3, metric=spectra().metric)
    energies = decompose.squared_norms(spectra().tensor, metric=spectra().metric)
    rows = asked.features(layer=3, set="tokens").to_pylist()
    assert [row["label"] for row in rows] == list(NAMES)
    assert [row["feature"] for row in rows] == list(range(7))
    assert {(row["metric"], row["pairs"], row["control"], row["exact"]) for row in rows} == {
        (whole.metric, 3, False, True)
    }
    near([row["energy"] for row in rows], energies, 100)
    near([[row["low"], row["high"]] for row in rows], whole.bounds, 100, rtol=1e-6)
    found = [asked.eigenpairs(layer=3, set="tokens", feature=n).to_pylist() for n in range(7)]
    near([[row["value"] for row in each] for each in found], whole.values, 100)
    near([[row["share"] for row in each] for each in found], whole.values.square() / energies[:, None])
    near([row["held"] for row in rows], (whole.values.square() / energies[:, None]).sum(1))
    for n in range(7):
        near(asked.vectors(layer=3, set="tokens", feature=n), whole.vectors[n], 10)
    with refuses(BilensError, "feature 7 of set 'tokens' in layer 3"):
        asked.vectors(layer=3, set="tokens", feature=7)


def test_interactions_are_those_of_the_stream_with_what_data_says(run):
    asked = tables.open(run)
    whole = decompose.strongest(*layer(), None, 5)
    seen = decompose.coactivation(whole, CODES)
    for n, label in enumerate(NAMES):
        rows = asked.interactions(output=label).to_pylist()
        assert [(row["first"], row["second"]) for row in rows] == list(
            zip(whole.first[n].tolist(), whole.second[n].tolist(), strict=True)
        )
        near([row["coefficient"] for row in rows], whole.coefficients[n], 1e3)
        near([row["share"] for row in rows], whole.shares[n])
        near([row["left"] for row in rows], whole.left[n].expand(5), 1e3)
        assert [row["together"] for row in rows] == seen.together[n].tolist()
        near([row["product"] for row in rows], seen.product[n], 10)
        assert {row["samples"] for row in rows} == {30}
        assert {row["first_label"] for row in rows} <= {"constant", *"012345"}
        assert asked.interactions(output=n).to_pylist() == rows
    least = float(whole.shares.median())
    assert asked.interactions(min_share=least).num_rows == int((whole.shares >= least).sum())
    assert asked.interactions(limit=2).num_rows == 2
    with refuses(BilensError, "min_share = 2"):
        asked.interactions(min_share=2)


def test_examples_and_audit_come_back(run):
    asked = tables.open(run)
    (row,) = asked.examples(layer=3, set="tokens", feature=0).to_pylist()
    assert row["tokens"] == [" art", "</script>"]
    assert (row["value"], row["predicted"], row["focus"]) == (2.5, 2.25, 1)
    assert asked.query("SELECT pairs, correlation FROM audit ORDER BY pairs").to_pylist() == [
        {"pairs": 0, "correlation": None},
        {"pairs": 2, "correlation": 0.5},
    ]


def test_a_feature_is_found_by_a_part_of_its_label_and_labels_are_no_sql(run):
    asked = tables.open(run)
    assert asked.features(label="thou").column("feature").to_pylist() == [0]
    assert asked.features(label="'; DROP").column("feature").to_pylist() == [4]
    assert asked.features(label="%").num_rows == 0
    assert asked.features(control=True).num_rows == 0
    assert asked.features(limit=2).num_rows == 2


# SQL


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("COPY features TO 'stolen.csv'", "COPY in SQL; expected one SELECT"),
        ("ATTACH 'other.db'", "ATTACH in SQL"),
        ("CREATE TABLE t AS SELECT 1", "CREATE in SQL"),
        ("DROP VIEW features", "DROP in SQL"),
        ("INSERT INTO features SELECT * FROM features", "INSERT in SQL"),
        ("INSTALL httpfs", "LOAD in SQL"),
        ("SET enable_external_access = true", "SET in SQL"),
        ("PRAGMA database_list", "in SQL"),
        ("EXPLAIN ANALYZE COPY features TO 'stolen.csv'", "EXPLAIN in SQL"),
        ("SELECT 1; SELECT 2", "SELECT and SELECT in SQL"),
        ("", "no statement in SQL"),
        ("SELECT * FROM read_csv('/etc/passwd')", "SQL that is refused"),
        ("SELECT * FROM read_text('/etc/passwd')", "SQL that is refused"),
        ("SELECT * FROM '/etc/passwd'", "SQL that is refused"),
        ("SELECT * FROM glob('/etc/*')", "SQL that is refused"),
        ("SELECT * FROM sniff_csv('/etc/passwd')", "SQL that is refused"),
        ("SELECT * FROM read_parquet('https://example.org/x.parquet')", "SQL that is refused"),
        ("SELECT * FROM query('COPY features TO ''stolen.csv''')", "SQL that is refused"),
        ("SELECT * FROM sql", "SQL that is refused"),  # a variable of Python
        ("SELECT nothing FROM features", "nothing"),
        ("SELEC 1", "SQL that is refused (Parser Error"),
    ],
)
def test_sql_reads_the_tables_and_nothing_else(run, sql, said, capsys, monkeypatch):
    monkeypatch.chdir(run.parent)
    with refuses(BilensError, said):
        tables.open(run).query(sql)
    assert cli.main(["query", str(run), sql]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("bilens: got ")
    assert told.err.count("\n") == 1
    assert sorted(path.name for path in run.parent.iterdir()) == ["run"]


def test_variables_of_python_are_locked_away_by_a_lock_of_their_own(run, monkeypatch):
    """Where duckdb would open them together with files, the lock on files is not what keeps them shut."""
    without = {name: value for name, value in tables._read.LOCKED.items() if name != "enable_external_access"}
    monkeypatch.setattr(tables._read, "LOCKED", without)  # in their order: the lock itself comes last
    asked = tables.open(run)
    assert asked.query("SELECT count(*) AS n FROM read_text('/etc/passwd')").column("n").to_pylist() == [1]
    monkeypatch.setattr(tables._read, "variable", asked.query("SELECT 1 AS one"), raising=False)
    with refuses(BilensError, "Table with name variable does not exist"):
        asked.query("SELECT * FROM variable")


def test_files_that_sql_must_not_read_do_exist():
    """Or the refusals above would show nothing."""
    import duckdb

    assert duckdb.connect().execute("SELECT count(*) FROM read_text('/etc/passwd')").fetchone() == (1,)


def test_questions_over_several_tables_are_answered(run):
    sql = """
        WITH best AS (SELECT label, max(share) AS share FROM interactions GROUP BY label)
        SELECT f.label, best.share FROM features f JOIN best USING (label) WHERE f.held > 0 ORDER BY share DESC
    """
    assert tables.open(run).query(sql).num_rows == 7
    assert tables.open(run).query("FROM features SELECT count(*) AS n").to_pylist() == [{"n": 7}]


def test_batches_that_are_written_meanwhile_are_seen(run):
    asked = tables.open(run)
    before = asked.features().num_rows
    tables.save_spectra(tables.Writer(run, {"job": "test"}), spectra(), layer=4, set="tokens", progress=False)
    assert asked.features().num_rows == 2 * before
    assert asked.features(layer=4).num_rows == before
    assert "features 6 files" in repr(asked)


def test_the_command_shows_a_table_and_writes_csv(run, capsys):
    assert cli.main(["query", str(run), "SELECT label, held FROM features ORDER BY feature", "--rows", "2"]) == 0
    told = capsys.readouterr().out
    assert "2 of 7 rows" in told
    assert " thou" in told
    assert cli.main(["query", str(run), "SELECT label FROM features ORDER BY feature"]) == 0
    told = capsys.readouterr().out
    assert r"\u202ex" in told
    assert r"a\nb" in told
    assert "\u202e" not in told
    assert cli.main(["query", str(run), "SELECT feature, label FROM features ORDER BY feature", "--csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["feature,label", "0, thou"]
    assert cli.main(["query", str(run / "no"), "SELECT 1"]) == 2
    assert "which is no folder" in capsys.readouterr().err
    assert cli.main(["query", str(run / "tables"), "SELECT 1"]) == 2
    assert "which has no tables" in capsys.readouterr().err


def test_what_a_terminal_would_obey_is_shown():
    assert visible("\x1b[31mred") == r"\x1b[31mred"
    assert visible(None) == ""
    assert visible(1 / 3) == "0.333333"
    assert visible([" a", "\u2028"]) == r"[' a', '\u2028']"


# Other programs


@pytest.mark.parametrize("table", tables.TABLES)
def test_pandas_opens_the_tables(written, table):
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(written / "tables" / table)
    assert list(frame.columns) == [column.name for column in tables.TABLES[table]]
    rows = tables.open(written).query(f"SELECT * FROM {table} ORDER BY ALL").to_pylist()
    plain = [{name: _python(value) for name, value in row.items()} for row in frame.to_dict("records")]
    assert sorted(plain, key=str) == sorted(rows, key=str)


def test_pandas_has_the_tokens_of_an_example_as_they_are(written):
    pandas = pytest.importorskip("pandas")
    (row,) = pandas.read_parquet(written / "tables" / "examples").itertuples()
    told = example()
    assert (list(row.tokens), list(row.values)) == (told["tokens"][0], told["values"][0])
    assert (row.tokens[row.focus], row.values[row.focus]) == ("</script>", row.value)


def _python(value):
    """What pandas has for a value as Python and pyarrow have it: lists instead of arrays, None instead of NaN."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return None if isinstance(value, float) and math.isnan(value) else value


def test_polars_opens_the_tables(written):
    polars = pytest.importorskip("polars")
    read = polars.read_parquet(written / "tables" / "interactions" / "*.parquet")
    assert read.height == 35
    assert read.columns == [column.name for column in tables.TABLES["interactions"]]
    examples = polars.read_parquet(written / "tables" / "examples" / "*.parquet")
    assert examples["tokens"].to_list() == example()["tokens"]
    assert examples["values"].to_list() == example()["values"]


def test_datasets_opens_the_tables(run):
    datasets = pytest.importorskip("datasets")
    names = [str(path) for path in sorted((run / "tables" / "features").glob("*.parquet"))]
    found = datasets.Dataset.from_parquet(names, cache_dir=str(run.parent / "cache"))
    assert sorted(found["label"]) == sorted(NAMES)
    names = [str(path) for path in (run / "tables" / "examples").glob("*.parquet")]
    (row,) = datasets.Dataset.from_parquet(names, cache_dir=str(run.parent / "cache"))
    assert (row["tokens"], row["values"]) == (example()["tokens"][0], example()["values"][0])


def test_vectors_are_plain_safetensors(run):
    (row,) = tables.open(run).query("SELECT file, row FROM features WHERE feature = 4").to_pylist()
    near(
        load_file(run / row["file"])["vectors"][row["row"]],
        decompose.eigh_many(spectra().tensor, None, 3, metric=spectra().metric).vectors[4],
        10,
    )


def test_the_page_has_every_column():
    page = (ROOT / "docs" / "tables.md").read_text("utf-8")
    for name, columns in tables.TABLES.items():
        body = page.split(f"\n## `{name}`\n")[1].split("\n## ")[0]
        rows = [line for line in body.splitlines() if line.startswith("| `")]
        expected = [
            f"| `{each.name}` | {each.kind}{', may be null' if each.optional else ''} | {each.meaning} |".replace(
                "|λ|", "\\|λ\\|"
            )
            for each in columns
        ]
        assert rows == expected, "\n".join(expected)


def test_files_have_the_columns_that_the_page_says(run):
    for name, columns in tables.TABLES.items():
        for path in (run / "tables" / name).glob("*.parquet"):
            written = pq.read_schema(path)
            assert written.names == [each.name for each in columns]
            header = json.loads(written.metadata[b"bilens"])
            assert (header["format"], header["table"], header["layer"], header["set"]) == (
                tables.FORMAT,
                name,
                3,
                "tokens",
            )


# Writing


def listed(run: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}


def test_what_is_there_is_kept_and_what_is_missing_or_damaged_is_written_again(run, monkeypatch):
    writer, before = tables.Writer(run, {"job": "test"}), listed(run)
    with monkeypatch.context() as patch:
        patch.setattr(decompose.SpectraStream, "batch", lambda *_: pytest.fail("a whole batch was computed again"))
        tables.save_spectra(writer, spectra(), **HERE, progress=False)
    content = {path: path.read_bytes() for path in before}
    (run / "tables" / "features" / "003-tokens-000001.parquet").unlink()
    damaged = run / "tables" / "features" / "003-tokens-000002.parquet"
    bytes_ = bytearray(damaged.read_bytes())
    bytes_[30] ^= 255
    damaged.write_bytes(bytes_)
    with pytest.warns(store.DamagedBatchWarning, match="000002.parquet: damaged, and written again"):
        tables.save_spectra(writer, spectra(), **HERE, progress=False)
    assert {path: path.read_bytes() for path in listed(run)} == content
    changed = {path.name for path, at in listed(run).items() if at != before[path]}
    assert {name[-13:-8] for name in changed if name.endswith(".parquet")} == {"00001", "00002"}


def test_batches_of_other_weights_are_refused(run):
    writer = tables.Writer(run, {"job": "test"})
    with refuses(StoreError, "of other weights or settings"):
        tables.save_spectra(writer, spectra(4), **HERE, progress=False)
    with refuses(StoreError, "of other weights or settings"):
        tables.save_interactions(writer, pairs(), **HERE, inputs="atoms", progress=False)
    with refuses(StoreError, "other settings"):
        tables.Writer(run, {"job": "another"})


def test_a_file_that_is_cut_short_is_named(run):
    path = run / "tables" / "features" / "003-tokens-000000.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with refuses(StoreError, "003-tokens-000000.parquet, which is damaged"):
        tables.open(run).features()


def test_vectors_outside_of_the_run_are_refused(run):
    save_file({"vectors": torch.ones(9, 1, 1)}, run.parent / "secret.safetensors")
    table = pq.read_table(run / "tables" / "features" / "003-tokens-000000.parquet")
    place = table.schema.get_field_index("file")
    outside = table.set_column(place, table.schema.field(place), [["../secret.safetensors"] * table.num_rows])
    pq.write_table(outside, run / "tables" / "features" / "003-tokens-000000.parquet")
    with refuses(StoreError, "a file in the run's folder"):
        tables.open(run).vectors(layer=3, set="tokens", feature=0)


def test_links_are_not_followed(run):
    other = run.parent / "other.parquet"
    (run / "tables" / "features" / "003-tokens-000000.parquet").rename(other)
    (run / "tables" / "features" / "003-tokens-000000.parquet").symlink_to(other)
    assert tables.open(run).features().num_rows == 4


def test_a_full_disk_loses_nothing_that_was_finished(run, monkeypatch):
    writer, before = tables.Writer(run, {"job": "test"}), {path: path.read_bytes() for path in listed(run)}

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    for layer_ in (3, 9):
        with refuses(StoreError, "No space left on device", "free space".capitalize()):
            writer.write("examples", example(), layer=layer_, set="tokens")
    assert {path: path.read_bytes() for path in listed(run)} == before
    assert tables.open(run).features().num_rows == 7


@pytest.mark.parametrize(
    ("table", "change", "kind", "said"),
    [
        ("feature", {}, BilensError, "table = 'feature'; expected one of features"),
        ("examples", {"colour": ["red"]}, BilensError, "an extra column 'colour' in examples"),
        ("examples", {"layer": [1]}, BilensError, "an extra column 'layer'"),
        ("examples", {"value": None}, BilensError, "no column 'value' in examples"),
        ("examples", {"value": ["much"]}, BilensError, "column value of examples with"),
        ("examples", {"value": [None]}, BilensError, "column value of examples with a null"),
        ("examples", {"feature": [2**40]}, BilensError, "column feature of examples with"),
        ("examples", {"feature": [1, 2]}, ShapeError, "columns of 1, 2 rows in examples"),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path, table, change, kind, said):
    writer = tables.Writer(tmp_path, {})
    content = {name: values for name, values in (example() | change).items() if values is not None}
    with refuses(kind, said):
        writer.write(table, content, layer=0, set="a")
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".a", "a b", "x" * 99])
def test_names_of_sets_are_names_of_files(tmp_path, name):
    with refuses(BilensError, "set "):
        tables.Writer(tmp_path, {}).write("examples", example(), layer=0, set=name)


def test_energies_and_coactivation_of_others_are_refused(tmp_path):
    writer = tables.Writer(tmp_path, {})
    found = decompose.eigh_many(spectra().tensor, None, 1)
    with refuses(ShapeError, "energies of shape (2,)"):
        writer.spectra(found, layer=0, set="a", energies=torch.ones(2))
    one, two = (decompose.strongest(*layer(), None, k) for k in (1, 2))
    with refuses(ShapeError, "co-activation of shape (7, 2)"):
        writer.interactions(one, layer=0, set="a", inputs="b", seen=decompose.coactivation(two, CODES))
    writer.spectra(found, layer=0, set="a")
    assert tables.open(tmp_path).features().column("energy").null_count == 7


def test_sizes_are_told_before_and_are_about_right(tmp_path):
    tensor = BilinearTensor(
        filled("normal", 30, 64, 0),
        filled("normal", 30, 64, 1),
        filled("normal", 200, 30, 2),
        Space("x", 64),
        Space("y", 200),
    ).to(torch.float32)
    writer = tables.Writer(tmp_path, {})
    tables.save_spectra(writer, decompose.spectra_stream(tensor, k=8), layer=0, set="a", progress=False)
    stream = decompose.strongest_stream(tensor, None, None, 50, batch_size=256)
    tables.save_interactions(writer, stream, layer=0, set="a", inputs="x", progress=False)
    codes = torch.relu(filled("normal", 300, 64, 4))
    tables.save_interactions(writer, stream, layer=1, set="a", inputs="x", codes=codes, progress=False)
    sizes = tables.estimate(features=200, pairs=8, dim=64, interactions=50)
    seen = tables.estimate(features=200, interactions=50, codes=True)
    estimates = [(name, "000-", getattr(sizes, name)) for name in ("features", "eigenpairs", "interactions")]
    for name, layer_, estimated in [*estimates, ("interactions", "001-", seen.interactions)]:
        written = sum(path.stat().st_size for path in (tmp_path / "tables" / name).glob(f"{layer_}*"))
        assert 0.5 * estimated < written < 2 * estimated + 20_000, (name, written)
    vectors = sum(path.stat().st_size for path in (tmp_path / "vectors").iterdir())
    assert abs(vectors - sizes.vectors) < 1000
    sizes.require(tmp_path / "not" / "yet")
    huge = tables.estimate(layers=10**6, features=10**6, pairs=100, dim=10**4)
    assert "PB" not in str(huge)
    with refuses(StoreError, "free at", "TB"):
        huge.require(tmp_path)
    with refuses(BilensError, "features = -1"):
        tables.estimate(features=-1)


def test_without_the_extra_one_line_names_it(run, monkeypatch):
    real = builtins.__import__

    def without(missing):
        def imported(name, *args, **kwargs):
            if name.partition(".")[0] == missing:
                raise ImportError(name)
            return real(name, *args, **kwargs)

        return imported

    for missing in ("duckdb", "pyarrow"):
        monkeypatch.setattr(builtins, "__import__", without(missing))
        with refuses(BilensError, f"no {missing}", "pip install 'bilens[tables]'"):
            tables.open(run)
    with refuses(BilensError, "no pyarrow"):
        tables.Writer(run, {"job": "test"})


# Several processes, and kills

SCRIPT = """
import sys, time
sys.path[:0] = {path!r}
from bilens import decompose, tables
from test_tables import HERE, spectra

class Slow(decompose.SpectraStream):
    def batch(self, n):
        time.sleep(float(sys.argv[4]))
        return super().batch(n)

plain = spectra()
stream = Slow(plain.tensor, plain.k, plain.which, plain.tol, plain.method, 1, plain.seed, plain.metric)
writer = tables.Writer(sys.argv[1], {{"job": "test"}})
tables.save_spectra(writer, stream, **HERE, rank=int(sys.argv[2]), size=int(sys.argv[3]), progress=False)
"""


def started(folder: Path, rank: int = 0, size: int = 1, seconds: float = 0.0) -> subprocess.Popen:
    script = SCRIPT.format(path=[str(Path(__file__).parent)])
    return subprocess.Popen([sys.executable, "-c", script, str(folder), str(rank), str(size), str(seconds)])


def contents(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in listed(run)}


@pytest.mark.slow
def test_two_processes_write_the_tables_of_one(tmp_path):
    assert started(tmp_path / "one").wait() == 0
    both = [started(tmp_path / "two", rank, 2) for rank in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert tables.open(tmp_path / "two").features().num_rows == 7


@pytest.mark.slow
def test_killed_at_any_point_and_resumed_it_is_a_straight_run(tmp_path):
    assert started(tmp_path / "straight").wait() == 0
    for after in range(1, 5):
        killed = started(tmp_path / "killed", seconds=0.2)
        while len(list((tmp_path / "killed").glob("tables/features/*.parquet"))) < after and killed.poll() is None:
            pass
        killed.kill()
        killed.wait()
        kept = {name: at for name, at in listed(tmp_path / "killed").items() if name.suffix == ".parquet"}
        assert tables.open(tmp_path / "killed").features().num_rows >= after
    assert started(tmp_path / "killed").wait() == 0
    again = listed(tmp_path / "killed")
    finished = [path for path in kept if path.parent.name == "features"]
    assert all(again[path] == kept[path] for path in finished)
    left = {name: data for name, data in contents(tmp_path / "killed").items() if not name.endswith(".part")}
    assert left == contents(tmp_path / "straight")


def test_a_checksum_of_the_settings_is_in_every_file_of_a_stream(run):
    header = json.loads(pq.read_schema(run / "tables" / "eigenpairs" / "003-tokens-000001.parquet").metadata[b"bilens"])
    assert header["source"] == files.checksum(spectra().settings)
