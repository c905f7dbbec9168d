"""Files of labels: every format gives the columns that were written, and what is wrong is one line."""

import codecs
import csv
import io
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import probecache as pc
from probecache.store.errors import InputError
from probecache.store.importing.label_file import LabelFile, write_label_file
from probecache.store.importing.tables.csv_table import typed
from probecache.store.importing.tables.read import read_table
from probecache.store.importing.tables.text import read_lines
from tests.running import run

N = 12
NAMES = [f"{'Käfer' if i % 2 else 'cat'}/{i}.png" for i in range(N)]


@pytest.fixture
def store(tmp_path):
    return pc.write_arrays(
        tmp_path / "s",
        split="train",
        layer="l",
        activations=np.ones((N, 2), np.float32),
        labels=np.arange(N) % 2,
        samples=NAMES,
        shard_rows=8,
    )


def table():
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "who": rng.permutation([*NAMES, "none.png"]),
            "color": rng.choice(["red", "grün", "blue, dark", 'the "one"'], N + 1),
            "size": rng.integers(0, 5, N + 1),
            "age": rng.normal(size=N + 1).round(3),
            "big": rng.integers(0, 2, N + 1),
            "old": rng.integers(0, 2, N + 1),
        }
    )


def expected(frame, column):
    place = dict(zip(frame["who"], frame[column], strict=True))
    return [place[name] for name in NAMES]


def write(frame, path):
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".tsv":
        frame.to_csv(path, index=False, sep="\t")
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True, force_ascii=False)
    elif path.suffix == ".npz":
        np.savez(
            path, **{c: frame[c].to_numpy(str if frame[c].dtype.kind not in "if" else None) for c in frame}
        )
    elif path.suffix == ".npy":
        np.save(path, frame.to_records(index=False, column_dtypes={"who": "U20", "color": "U20"}))


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "jsonl", "npz", "npy"])
def test_every_format_gives_the_same_targets(store, tmp_path, ending):
    frame, path = table(), tmp_path / f"labels.{ending}"
    write(frame, path)
    source = LabelFile(path, key="who", names=["color", "siz*", "age", "both=big,old"])
    done = write_label_file(store, "train", source)
    assert (done.matched.n_matched, done.matched.strange, done.matched.example) == (N, 1, "none.png")
    color = store.target("train", "color")
    assert [color.names[i] for i in color.values] == expected(frame, "color")
    np.testing.assert_array_equal(store.target("train", "size"), expected(frame, "size"))
    np.testing.assert_array_equal(store.target("train", "age").values[:, 0], expected(frame, "age"))
    both = store.target("train", "both")
    assert (both.kind, both.names) == ("labels", ("big", "old"))
    np.testing.assert_array_equal(both, np.stack([expected(frame, "big"), expected(frame, "old")], axis=1))
    assert store.targets("train") == ("label", "age", "both", "color", "size")


@pytest.mark.parametrize("mark", ["", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "latin-1"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_marks_line_ends_and_encodings(store, tmp_path, mark, newline):
    frame = table().replace("grün", "gr\u2028ün" if mark != "latin-1" else "gr\x0cün")
    path = tmp_path / "l.csv"
    buffer = io.StringIO(newline="")
    frame.to_csv(buffer, index=False, lineterminator=newline)
    path.write_bytes(buffer.getvalue().encode(mark or "utf-8"))
    told = mark if mark in ("latin-1", "utf-16-le") else None
    if told:  # nothing in the file says what it is
        with pytest.raises(InputError, match=r"is not utf-8 text|holds zero bytes"):
            write_label_file(store, "train", LabelFile(path, "who"))
    write_label_file(store, "train", LabelFile(path, "who", ["color"], encoding=told))
    color = store.target("train", "color")
    assert [color.names[i] for i in color.values] == expected(frame, "color")


def test_lines_end_at_line_ends_only(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffa\u2028b\r\nc\x0cd\re\n\nf".encode())
    assert read_lines(tmp_path / "a.txt") == ["a\u2028b", "c\x0cd", "e", "", "f"]


@pytest.mark.parametrize("divider", [",", ";", "\t", "|"])
def test_dividers(tmp_path, divider):
    path = tmp_path / "a.csv"
    path.write_text(f'sample{divider}"x,y;z"\na{divider}1\n\nb{divider}\n')
    found = read_table(path)
    assert {name: list(values) for name, values in found.items()} == {
        "sample": ["a", "b"],
        "x,y;z": [1, None],
    }


@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0\r\ud800"), max_size=8), min_size=2)
)
def test_a_csv_cell_is_never_another(cells):
    """What Python's own writer wrote comes back, whatever the cells hold."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(
                [["sample", "cell"], *([f"n{i}", "x" + c] for i, c in enumerate(cells))]
            )
        found = read_table(path)
    assert list(found["sample"]) == [f"n{i}" for i in range(len(cells))]
    assert list(found["cell"]) == ["x" + c for c in cells]


CELLS = [
    (["1", "", "-3"], [1, None, -3]),
    (["1.5", "", "-3e2", "nan"], [1.5, np.nan, -300, np.nan]),
    (["007", "1"], ["007", "1"]),
    (["001", "002"], ["001", "002"]),
    (["01.5", "2"], ["01.5", "2"]),
    (["0.5", "0", "-0", "10."], [0.5, 0.0, 0.0, 10.0]),
    (["1_000", "1"], ["1_000", "1"]),
    (["NA", "NZ", ""], ["NA", "NZ", None]),
    ([str(2**70)], [2**70]),
]


@pytest.mark.parametrize(("cells", "values"), CELLS)
def test_what_cells_are_taken_for(cells, values):
    found = typed(cells, "here")
    numbers = any(isinstance(value, float) for value in values)
    assert found.dtype == (np.float64 if numbers else object)
    np.testing.assert_array_equal(found, np.array(values, found.dtype))
    assert numbers or list(map(type, found)) == list(map(type, values))


def test_decimal_commas_are_no_classes():
    with pytest.raises(InputError, match="'0,5' has a comma: write numbers with a point"):
        typed(["0,5", "1", "2,25", ""], "here")
    assert typed(["a,5", "1,2"], "here").tolist() == ["a,5", "1,2"]


def test_lists_in_cells(store, tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [
        {"sample": NAMES[0], "tags": ["b", "a"], "box": [1.5, 2]},
        {"sample": NAMES[3], "tags": [], "box": [3, 4]},
    ]
    path.write_text("\n".join([*map(json.dumps, rows), json.dumps({"sample": NAMES[1]}), ""]))
    write_label_file(store, "train", LabelFile(path))
    tags, box = store.target("train", "tags"), store.target("train", "box")
    assert (tags.kind, tags.names, tags.values[[0, 3]].tolist()) == ("labels", ("a", "b"), [[1, 1], [0, 0]])
    assert (box.kind, box.values[[0, 3]].tolist()) == ("numbers", [[1.5, 2], [3, 4]])
    assert np.flatnonzero(tags.labelled).tolist() == np.flatnonzero(box.labelled).tolist() == [0, 3]


def test_the_command_counts_what_matched(store, tmp_path, capsys):
    path = tmp_path / "a.csv"
    path.write_text(f"sample,color\n{NAMES[2]},red\n{NAMES[0]},\nx.png,blue\n", encoding="utf-8")
    code, out, _ = run(capsys, "target", store.path, "--split", "train", "--from", path)
    assert code == 0
    assert out.splitlines() == [
        f"{store.path}: split train: 2 of 12 samples have a row; 1 of 3 rows name no sample here "
        "(the first: 'x.png')",
        "  color: 2 classes, 1 rows labelled, 11 unlabelled",
    ]
    np.save(tmp_path / "b.npy", np.arange(N) * 0.5)
    more = ["--from", tmp_path / "b.npy", "--name", "size"]
    code, _, err = run(capsys, "target", store.path, "--split", "train", *more)
    assert (code, "add --by-position" in err) == (2, True)
    code, out, _ = run(capsys, "target", store.path, "--split", "train", *more, "--by-position")
    assert (code, out.splitlines()[-1]) == (0, "  size: numbers, 12 rows labelled, 0 unlabelled")
    path.write_text(f"sample,color\n{NAMES[2]},green\n", encoding="utf-8")
    code, _, err = run(capsys, "target", store.path, "--split", "train", "--from", path)
    assert (code, "--replace" in err) == (2, True)
    code, *_ = run(capsys, "target", store.path, "--split", "train", "--from", path, "--replace")
    assert (code, store.target("train", "color").names) == (0, ("green",))


BAD = {
    "none.csv": (None, "no file"),
    "a.xlsx": (b"PK", "of no known format"),
    "empty.csv": (b"", "has 0 rows"),
    "head.csv": (b"sample,x\n", "has 1 rows"),
    "ragged.csv": (b"sample,x\na,1\nb,2,3\n", "row 2 has 3 fields"),
    "twice.csv": (b"sample,x,x\na,1,2\n", "two columns 'x'"),
    "na.csv": (b"sample,x\na,1\nb,NA\n", "'NA' among numbers"),
    "quote.csv": (b'sample,x\na,"1\n', "is no CSV"),
    "zero.csv": (b"sample,x\na,\x001\n", "zero bytes"),
    "latin.csv": ("sample,x\na,\xe9\n".encode("latin-1"), "byte 0xe9 at 11"),
    "key.csv": (b"name,x\ncat/0.png,1\n", "'name' names 1 of 12 samples: --key name"),
    "other.csv": (b"sample,x\nq.png,1\nr.png,2\n", "it has 'q.png', 'r.png', the split 'cat/0.png'"),
    "same.csv": (b"sample,x\ncat/0.png,1\ncat/0.png,2\n", "occurs twice, in rows 0 and 1"),
    "space.csv": (b"sample,a b\ncat/0.png,1\n", "target 'a b' cannot be a name"),
    "word.jsonl": (b"[1, 2]\n", "line 1: a list, not an object"),
    "cut.jsonl": (b'{"sample": "a"}\n{"sam', "line 2: no JSON"),
    "mixed.jsonl": (b'{"sample": "cat/0.png", "x": 1}\n{"sample": "cat/2.png", "x": "b"}', "mixes int, str"),
    "bad.parquet": (b"PAR1", "is no parquet file"),
    "bad.npy": (b"junk", "holds no arrays"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_line_and_change_nothing(store, tmp_path, capsys, name):
    content, says = BAD[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    before = sorted(p for p in store.files.root.rglob("*"))
    code, out, err = run(capsys, "target", store.path, "--split", "train", "--from", tmp_path / name)
    assert (code, out) == (2, "")
    assert says in err
    assert len(err.splitlines()) == 1
    assert sorted(p for p in store.files.root.rglob("*")) == before


def test_marks_are_pythons():
    """The longest mark wins: UTF-32's begins with UTF-16's."""
    from probecache.store.importing.tables.text import _MARKS

    assert list(_MARKS).index(codecs.BOM_UTF32_LE) < list(_MARKS).index(codecs.BOM_UTF16_LE)


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_a_column_is_read_without_those_beside_it(tmp_path, ending):
    """Features that lie beside the labels, and may be larger than memory, are not touched for them."""
    path = tmp_path / f"a.{ending}"
    features, labels = np.random.default_rng(0).random((64, 32), np.float32), np.arange(64) % 3
    if ending == "npz":
        np.savez(path, X=features, label=labels)
    else:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        lists = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), 32)
        pq.write_table(pa.table({"X": lists, "label": labels}), path, write_page_checksum=True)
    raw = path.read_bytes()
    at = raw.index(features[5].tobytes())
    path.write_bytes(raw[:at] + b"\xff" * 4000 + raw[at + 4000 :])
    found = read_table(path)
    assert list(found) == ["X", "label"]
    np.testing.assert_array_equal(found["label"], labels)
    if ending == "npz":  # its pieces carry checksums that reading them meets
        with pytest.raises(InputError, match="CRC"):
            found["X"]
