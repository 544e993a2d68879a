"""Documents of files, folders, tables and data sets, against what was written into them."""

from __future__ import annotations

import gzip
import json
import sys
import types
from pathlib import Path

import pytest

from bilens.errors import BilensError, StoreError
from bilens.text.sources import Document, documents, plain, turns


def texts(*sources: object, **more) -> list[str]:
    return [document.text for document in documents(list(sources), **more)]


def test_plain_files_with_one_document_or_several(tmp_path: Path) -> None:
    one, two = tmp_path / "one.txt", tmp_path / "two.md"
    one.write_bytes(b"\xef\xbb\xbfA b\r\nc\r\n")  # a byte-order mark and DOS lines
    two.write_text("first\n<|endoftext|>\nsecond\n<|endoftext|>\n")
    assert texts(one) == ["A b\nc"]
    assert texts(two) == ["first", "second"]
    assert [document.name for document in documents(one)] == [str(one)]
    assert [document.name for document in documents(two)] == [f"{two}, part 1", f"{two}, part 2"]


def test_a_named_file_of_no_known_kind_is_plain_text(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("plain")
    assert texts(tmp_path / "README") == ["plain"]


def test_html_is_left_with_its_text_alone() -> None:
    page = """<html><head><title>T</title><style>p {}</style><script>if (a < b) x()</script></head>
    <body><h1>One</h1><p>a &amp; <b>b</b>
    c&nbsp;d<br>e</p><ul><li>f</li><li>g</li></ul><pre>h  i
  j</pre><table><tr><td>k</td><td>l</td></tr></table><!-- not this --></body></html>"""
    assert plain(page) == "One\n\na & b c d\ne\n\nf\n\ng\n\nh  i\nj\n\nk l"
    assert plain("<p>a<script/>b") == "ab"
    assert plain("<p>open <title>never closed") == "open"


def test_html_files_and_compressed_ones(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<p>a</p>")
    (tmp_path / "b.HTM.gz").write_bytes(gzip.compress(b"<p>b</p>"))
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"c"))
    assert sorted(texts(tmp_path)) == ["a", "b", "c"]


def test_lines_of_json(tmp_path: Path) -> None:
    rows = [{"text": "a", "other": "x"}, {"text": None}, {"text": " b "}]
    path = tmp_path / "a.jsonl"
    path.write_text("\n\n".join(json.dumps(row) for row in rows))
    assert [(document.name, document.text) for document in documents(path)] == [
        (f"{path}, line 1", "a"),
        (f"{path}, line 5", "b"),
    ]
    assert texts(path, field="text") == ["a", "b"]
    packed = tmp_path / "b.ndjson.gz"
    packed.write_bytes(gzip.compress(b'{"body": "c"}\n{"body": "d"}\n'))
    assert texts(packed, field="body") == ["c", "d"]


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": ["a", None, "b"], "n": [1, 2, 3]}), path)
    assert texts(path) == ["a", "b"]
    with pytest.raises(StoreError, match=r"a.parquet without 'body'; expected a field of that name; it has text, n"):
        texts(path, field="body")
    with pytest.raises(StoreError, match="row 1 with 'n' of type int; expected a text"):
        texts(path, field="n")
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(StoreError, match=r"a.parquet, which cannot be read \("):
        texts(path)


def test_a_folder_is_read_at_any_depth_in_an_order_of_its_seed(tmp_path: Path) -> None:
    for number in range(20):
        folder = tmp_path / str(number % 3)
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.txt").write_text(f"text {number}")
        (folder / f"{number}.png").write_bytes(b"\x89PNG")
    orders = [texts(tmp_path, seed=seed) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) == sorted(f"text {number}" for number in range(20))


def test_sources_take_turns_and_nothing_comes_twice(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": f"a{k}"}) for k in range(4)))
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in ("b0", "a1", "", "b0")))
    assert texts(tmp_path / "a.jsonl", tmp_path / "b.jsonl") == ["a0", "b0", "a1", "a2", "a3"]
    assert [one.text for one in turns([[Document("", "x")], [], [Document("", "y"), Document("", "z")]])] == list("xyz")


def test_reading_stops_where_nobody_asks_for_more(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\nno JSON\n')
    stream = documents(path)
    assert next(stream).text == "a"
    with pytest.raises(StoreError, match="line 2, which is no JSON; expected a JSON object on every line"):
        next(stream)


def test_a_name_is_a_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(name, configuration, *, split, streaming):
        asked.append((name, configuration, split, streaming))
        if name == "no/where":
            raise FileNotFoundError("Dataset 'no/where'\n does not exist")
        return iter([{"text": "a"}, {"text": "b"}])

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    assert texts("owner/name:small") == ["a", "b"]
    assert texts("owner/name") == ["a", "b"]
    assert asked == [("owner/name", "small", "train", True), ("owner/name", None, "train", True)]
    with pytest.raises(StoreError, match=r"no/where, .* does not load \(Dataset 'no/where' does not exist\)"):
        texts("no/where")
    with pytest.raises(StoreError, match="owner/name, row 1 without 'body'"):
        texts("owner/name", field="body")


@pytest.mark.bad_input
def test_what_cannot_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "latin.txt").write_bytes("naïve".encode("latin-1"))
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"a" * 1000)[:-12])
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:-12])
    (tmp_path / "list.jsonl").write_text('["a"]')
    (tmp_path / "other.jsonl").write_text('{"body": "a"}')
    (tmp_path / "empty").mkdir()
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    cases = [
        (tmp_path / "latin.txt", StoreError, "latin.txt, which is not UTF-8 at byte 2; expected a text in UTF-8"),
        (tmp_path / "cut.txt.gz", StoreError, "cut.txt.gz, which cannot be read"),
        (tmp_path / "cut.jsonl.gz", StoreError, "cut.jsonl.gz, which cannot be read"),
        (tmp_path / "list.jsonl", StoreError, "line 1 with a JSON list; expected a JSON object"),
        (tmp_path / "other.jsonl", StoreError, "line 1 without 'text'; expected a field of that name; it has body"),
        (tmp_path / "empty", StoreError, "empty without a text; expected files that end in .txt"),
        (tmp_path / "absent", StoreError, "absent, which is not there; expected a file, a folder, or a data set"),
        ("owner/name", BilensError, "owner/name, .* Install it: pip install datasets"),
        (tmp_path / "a.parquet", BilensError, "a.parquet, a Parquet file; .* Install it: pip install pyarrow"),
        ([], BilensError, "no source of text"),
        (3, BilensError, "a source of text = 3"),
    ]
    for source, kind, message in cases:
        with pytest.raises(kind, match=message) as caught:
            list(documents(source if source == [] else [source]))
        assert "\n" not in str(caught.value)
