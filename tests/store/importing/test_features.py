"""Features in files: every format and dtype comes out bit by bit, or is refused with the reason."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import dask.array as da
import h5py
import ml_dtypes
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
import scipy.sparse
import torch
import xarray as xr
import zarr
from safetensors.torch import save_file

import probecache as pc
from probecache.store.importing.formats.open import FORMATS, open_matrix
from probecache.store.importing.labels import read_labels
from probecache.store.verification.verify import verify

ROOT = Path(__file__).parents[3]
N, D, R = 90, 6, 32
KEPT = {"float16": "float16", "bfloat16": "bfloat16", "float32": "float32"}
EXACT = dict.fromkeys(("int8", "uint16"), "float32")
ROUNDED = ("float64", "int64", "uint32")


def matrix(dtype):
    """Values of every kind: subnormal, infinite, NaN with any payload; whole numbers to the limits."""
    rng = np.random.default_rng(0)
    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    if kind.kind in "iu":
        info = np.iinfo(kind)
        return rng.integers(info.min, info.max, (N, D), kind, endpoint=True)
    return rng.integers(0, 256, (N, D * kind.itemsize), np.uint8).view(kind)


def bits(array):
    return np.ascontiguousarray(array).view(np.uint8)


def tensor(values):
    if values.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(values.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(values)


def npz(path, values):
    np.savez(path, X=values, other=np.zeros(3))


def packed(path, values):
    np.savez_compressed(path, X=values, other=np.zeros(3))


def h5(path, values):
    with h5py.File(path, "w") as file:
        file.create_dataset("deep/X", data=values, chunks=True, compression="gzip")
        file["y"] = np.zeros(3)


def zarr_file(path, values, **more):
    group = zarr.open_group(path, mode="w", **more)
    array = group.create_array("X", shape=values.shape, chunks=(11, 4), dtype=values.dtype)
    array[:] = values


def zarr2(path, values):
    zarr_file(path, values, zarr_format=2)


def parquet_list(path, values):
    flat = pa.array(values.reshape(-1))
    table = pa.table({"X": pa.FixedSizeListArray.from_arrays(flat, D), "id": np.arange(N)})
    pq.write_table(table, path, row_group_size=40)


def parquet_lists(path, values):
    pq.write_table(pa.table({"X": pa.array(list(values)), "id": np.arange(N)}), path, row_group_size=40)


def parquet_columns(path, values):
    pq.write_table(pa.table({f"f{i}": values[:, i] for i in range(D)} | {"id": np.arange(N)}), path)


WRITERS = {
    "a.npy": (lambda path, values: np.save(path, values), ""),
    "fortran.npy": (lambda path, values: np.save(path, np.asfortranarray(values)), ""),
    "a.npz": (npz, ":X"),
    "packed.npz": (packed, ":X"),
    "a.pt": (lambda path, values: torch.save(tensor(values), path), ""),
    "dict.pt": (lambda path, values: torch.save({"X": tensor(values), "n": 3}, path), ""),
    "old.pt": (lambda path, v: torch.save(tensor(v), path, _use_new_zipfile_serialization=False), ""),
    "a.safetensors": (lambda path, v: save_file({"X": tensor(v), "y": torch.zeros(3)}, path), ":X"),
    "a.h5": (h5, ":deep/X"),
    "a.zarr": (zarr_file, ":X"),
    "two.zarr": (zarr2, ":X"),
    "list.parquet": (parquet_list, ""),
    "lists.parquet": (parquet_lists, ":X"),
    "columns.parquet": (parquet_columns, ":f*"),
}
NO_BFLOAT16 = ("npy", "npz", "h5", "zarr", "parquet")


def test_every_format_is_tried():
    assert {Path(name).suffix for name in WRITERS} == set(FORMATS) - {".pth", ".hdf5", ".nc", ".mat"}


@pytest.mark.parametrize("dtype", [*KEPT, *EXACT, *ROUNDED])
@pytest.mark.parametrize("name", WRITERS)
def test_every_dtype_comes_out_bit_by_bit_or_is_refused(tmp_path, name, dtype):
    if dtype == "bfloat16" and name.endswith(NO_BFLOAT16):
        pytest.skip("the format has no bfloat16")
    if name == "old.pt" and dtype in ("uint16", "uint32"):
        pytest.skip("torch's older format has no large unsigned numbers")
    (write, key), values, path = WRITERS[name], matrix(dtype), tmp_path / name
    write(path, values)
    more = {
        "split": "s",
        "layer": "l",
        "activations": f"{path}{key}",
        "shard_rows": R,
        "allow_saturated": True,
    }
    if dtype in ROUNDED:
        with pytest.raises(pc.InputError, match=f"{dtype} has more digits than a store keeps"):
            pc.import_features(tmp_path / "store", **more)
        assert not (tmp_path / "store").exists()
        if dtype != "float64":
            return
        with np.errstate(all="ignore"):
            stored = pc.import_features(tmp_path / "store", **more, dtype="float32").matrix("s", "l")
            expected = values.astype(np.float32)
        assert np.array_equal(stored, expected, equal_nan=True)
        return
    store = pc.import_features(tmp_path / "store", **more)
    stored = store.matrix("s", "l")
    assert store.layer_info("s", "l").spec.dtype == {**KEPT, **EXACT}[dtype]
    assert np.array_equal(bits(stored), bits(values)) if dtype in KEPT else np.array_equal(stored, values)
    assert store.labels("s").tolist() == [-1] * N
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "store").rglob("activations/c/*/0")}
    pc.import_features(
        tmp_path / "store", **more
    )  # read again and compared, from a file that only reads forward
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_our_own_bfloat16_in_zarr(tmp_path):
    values = matrix("bfloat16")
    common = {"split": "s", "layer": "l", "shard_rows": R, "allow_saturated": True}
    pc.write_arrays(tmp_path / "one", activations=values, **common)
    (tmp_path / "one").rename(tmp_path / "one.zarr")
    pc.import_features(tmp_path / "two", activations=f"{tmp_path}/one.zarr:s/l/activations", **common)
    assert np.array_equal(bits(pc.open_store(tmp_path / "two").matrix("s", "l")), bits(values))


@pytest.mark.parametrize("ending", ["npy", "npz", "h5", "parquet"])
def test_a_pattern_joins_files_in_the_order_of_their_numbers(tmp_path, ending):
    values, at = matrix("float32"), 0
    values = np.nan_to_num(values, nan=1, posinf=2, neginf=3)
    for i, rows in enumerate([5, 1, 20, 3, 7, 9, 4, 2, 8, 6, 25], start=1):
        part = values[at : at + rows]
        path = tmp_path / f"part-{i}.{ending}"
        if ending == "parquet":
            pq.write_table(pa.table({"X": pa.array(list(part))}), path)
        else:
            {"npy": lambda p, v: np.save(p, v), "npz": npz, "h5": h5}[ending](path, part)
        at += rows
    key = {"npz": ":X", "h5": ":deep/X"}.get(ending, "")
    np.save(tmp_path / "y1.npy", np.arange(50) % 4)
    np.save(tmp_path / "y2.npy", np.arange(50, N) % 4)
    store = pc.import_features(
        tmp_path / "s",
        split="s",
        layer="l",
        activations=f"{tmp_path}/part-*.{ending}{key}",
        labels=tmp_path / "y*.npy",
        shard_rows=R,
    )
    assert at == N
    np.testing.assert_array_equal(store.matrix("s", "l"), values)
    np.testing.assert_array_equal(store.labels("s"), np.arange(N) % 4)
    assert list(verify(store.path)) == []


TEXTS = np.array(["dog", "cat", "Käfer, groß"] * (N // 3))


def texts_h5(path):
    with h5py.File(path, "w") as file:
        file["y"] = TEXTS.astype(object)


def texts_zarr(path):
    group = zarr.open_group(path, mode="w")
    group.create_array("y", shape=(N,), dtype="str")[:] = TEXTS


LABELS = {
    "y.npy": lambda path: np.save(path, TEXTS),
    "bytes.npy": lambda path: np.save(path, np.char.encode(TEXTS, "utf-8")),
    "y.npz:y": lambda path: np.savez(path, y=TEXTS, z=np.zeros(N)),
    "y.csv:kind": lambda path: pd.DataFrame({"kind": TEXTS, "z": 0}).to_csv(path, index=False),
    "y.csv": lambda path: pd.DataFrame({"z": 0, "label": TEXTS}).to_csv(path, index=False),
    "y.parquet:kind": lambda path: pd.DataFrame({"kind": TEXTS}).to_parquet(path),
    "cat.parquet:kind": lambda path: pd.DataFrame({"kind": pd.Categorical(TEXTS)}).to_parquet(path),
    "y.jsonl:kind": lambda path: pd.DataFrame({"kind": TEXTS}).to_json(path, orient="records", lines=True),
    "y.h5:y": texts_h5,
    "y.zarr:y": texts_zarr,
}


@pytest.mark.parametrize("name", LABELS)
def test_texts_become_classes(tmp_path, name):
    LABELS[name](tmp_path / name.partition(":")[0])
    np.save(tmp_path / "X.npy", np.ones((N, 2), np.float32))
    more = {"split": "s", "layer": "l", "activations": tmp_path / "X.npy", "labels": tmp_path / name}
    store = pc.import_features(tmp_path / "s", **more)
    assert store.class_names("s") == ["Käfer, groß", "cat", "dog"]
    assert [store.class_names("s")[i] for i in store.labels("s")] == TEXTS.tolist()
    again = pc.import_features(tmp_path / "s", **(more | {"layer": "m", "labels": None}))
    assert again.layers == ["l", "m"]


NUMBERS = {
    "y.pt": lambda path, y: torch.save(torch.from_numpy(y), path),
    "y.safetensors:y": lambda path, y: save_file({"y": torch.from_numpy(y), "x": torch.zeros(2)}, path),
    "y.tsv": lambda path, y: path.write_text(
        "label\tz\n" + "".join(f"{i if i >= 0 else ''}\t0\n" for i in y)
    ),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_as_labels_and_rows_without_one(tmp_path, name):
    y = np.arange(N) % 4 - 1
    NUMBERS[name](tmp_path / name.partition(":")[0], y)
    np.save(tmp_path / "X.npy", np.ones((N, 2), np.float32))
    store = pc.import_features(
        tmp_path / "s", split="s", layer="l", activations=tmp_path / "X.npy", labels=tmp_path / name
    )
    np.testing.assert_array_equal(store.labels("s"), y)
    assert store.class_names("s") == ["0", "1", "2"]
    assert store.target("s", "label").labelled.sum() == (y >= 0).sum()


class Bad:
    """A pickle that would run code."""

    def __reduce__(self):
        return print, ("executed",)


def bad_files(folder):
    good = np.ones((4, 2), np.float32)
    torch.save(Bad(), folder / "code.pt")
    torch.save(torch.ones(4, 2).to_sparse(), folder / "sparse.pt")
    torch.save({"a": good, "b": 1}, folder / "arrays.pt")
    torch.save([torch.ones(2), torch.ones(2)], folder / "list.pt")
    np.save(folder / "objects.npy", np.array([Bad()], object), allow_pickle=True)
    np.save(folder / "cube.npy", np.zeros((2, 3, 4), np.float32))
    np.save(folder / "complex.npy", np.zeros((2, 3), complex))
    np.save(folder / "texts.npy", np.zeros((2, 3), "U3"))
    np.save(folder / "part-1.npy", good)
    np.save(folder / "part-2.npy", good[:, :1])
    np.savez(folder / "several.npz", a=good, b=good)
    for name in ("junk.npy", "junk.npz", "junk.pt", "junk.safetensors", "junk.h5", "junk.parquet"):
        (folder / name).write_bytes(b"junk of another kind")
    (folder / "junk.zarr").mkdir()
    save_file({"f8": torch.ones(4, 2).to(torch.float8_e4m3fn)}, folder / "f8.safetensors")
    pq.write_table(pa.table({"X": [[1.0, 2.0], [3.0]]}), folder / "ragged.parquet")
    pq.write_table(pa.table({"X": [[1.0, None], [3.0, 1.0]]}), folder / "null.parquet")
    pq.write_table(pa.table({"a": [1.0], "b": ["x"]}), folder / "mixed.parquet")
    raw = bytearray((folder / "several.npz").read_bytes())
    with zipfile.ZipFile(folder / "several.npz") as archive:
        at = archive.getinfo("a.npy").header_offset
    raw[at + 150] ^= 1
    (folder / "flipped.npz").write_bytes(raw)


REFUSED = {
    "code.pt": "it holds more than tensors",
    "sparse.pt": "make it dense first",
    "arrays.pt": "holds more than tensors|has 0 tensors",
    "list.pt": r"holds a list: save one tensor \(torch.stack\)",
    "objects.npy": "holds Python objects",
    "cube.npy": r"shape \(2, 3, 4\)",
    "complex.npy": "are complex128",
    "texts.npy": "are <U3",
    "part-*.npy": "have equal columns and dtypes",
    "several.npz": r"has 2 arrays \(a, b\): name one, FILE:KEY",
    "several.npz:c": "has no array 'c'; allowed: a, b",
    "part-1.npy:c": "leave :c out",
    "none.npy": "no file",
    "junk.npy": "not a .npy file",
    "junk.npz": "not a .npz file",
    "junk.pt": "holds no tensors",
    "junk.safetensors": "no safetensors file",
    "junk.h5": "no HDF5 file",
    "junk.parquet": "no parquet file",
    "junk.zarr": "no zarr array or group|has 0 arrays",
    "f8.safetensors": "convert it first",
    "ragged.parquet": "one length is needed",
    "null.parquet": "1 missing values in its lists",
    "mixed.parquet": "name the one that holds lists",
    "flipped.npz:a": "CRC",
}


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    bad_files(folder)
    return folder


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_matrix_is_refused_in_one_line_and_makes_nothing(bad, tmp_path, capfd, name):
    with pytest.raises(pc.InputError, match=REFUSED[name]) as told:
        pc.import_features(tmp_path / "s", split="s", layer="l", activations=bad / name)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "s").exists()
    assert "executed" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("label,x\n1,2\n", r"labels are int64 \(1,\)"),
        ("a,b\n1,2\n", "no column 'label'"),
        ("label\n0.5\n", "float64"),
    ],
)
def test_labels_that_do_not_fit(tmp_path, text, says):
    (tmp_path / "y.csv").write_text(text)
    np.save(tmp_path / "X.npy", np.ones((2, 2), np.float32))
    with pytest.raises(pc.InputError, match=says):
        pc.import_features(
            tmp_path / "s", split="s", layer="l", activations=tmp_path / "X.npy", labels=tmp_path / "y.csv"
        )
    assert not (tmp_path / "s").exists()


def test_a_file_whose_name_has_a_colon(tmp_path):
    np.save(tmp_path / "a:b.npy", np.ones((4, 2), np.float32))
    assert open_matrix(f"{tmp_path}/a:b.npy", "here").shape == (4, 2)
    np.save(tmp_path / "y.npy", np.arange(3))
    assert read_labels(f"{tmp_path}/y.npy", "here").tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["y.h5", "y.pt", "y.safetensors", "y.npy", "y.csv"])
def test_labels_in_a_fifo_are_refused_without_waiting(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(pc.InputError, match=r"not a file|is no file"):
        read_labels(f"{tmp_path}/{name}", "--labels")


def test_an_open_array_is_read_by_rows(tmp_path):
    values = np.arange(N * D, dtype=np.float32).reshape(N, D)
    h5(tmp_path / "a.h5", values)
    with h5py.File(tmp_path / "a.h5") as file:
        store = pc.write_arrays(
            tmp_path / "s", split="s", layer="l", activations=file["deep/X"], shard_rows=R
        )
    np.testing.assert_array_equal(store.matrix("s", "l"), values)


@pytest.mark.parametrize("name", ["scale_factor", "add_offset"])
def test_packed_numbers_are_not_taken_for_what_they_stand_for(tmp_path, name):
    values = np.arange(N * D, dtype=np.int16).reshape(N, D)
    h5(tmp_path / "a.nc", values)
    xr.Dataset({"X": (("n", "d"), values, {name: 0.5})}).to_zarr(tmp_path / "a.zarr", consolidated=False)
    with h5py.File(tmp_path / "a.nc", "a") as file:
        file["deep/X"].attrs[name] = np.array([0.5])
    for text in ("a.nc:deep/X", "a.zarr:X"):
        with pytest.raises(pc.InputError, match=rf"packed numbers \({name} 0.5\).*open it with xarray"):
            open_matrix(f"{tmp_path}/{text}", "here")
    h5(tmp_path / "plain.nc", values)
    np.testing.assert_array_equal(open_matrix(f"{tmp_path}/plain.nc:deep/X", "here")[0:5], values[:5])
    (tmp_path / "old.nc").write_bytes(b"CDF\x01" + bytes(60))
    with pytest.raises(pc.InputError, match=r"no HDF5 file .*of netCDF only version 4 is"):
        open_matrix(f"{tmp_path}/old.nc", "here")


@pytest.mark.parametrize("name", ["_FillValue", "missing_value"])
def test_numbers_that_stand_for_missing_ones_are_not_taken_for_values(tmp_path, name):
    values = np.arange(N * D, dtype=np.float32).reshape(N, D)
    gone = values.copy()
    gone[N - 1, 1] = -9999
    for file, rows, mark in (("a", gone, -9999), ("b", values, -9999), ("c", values, np.nan)):
        h5(tmp_path / f"{file}.nc", rows)
        with h5py.File(tmp_path / f"{file}.nc", "a") as opened:
            opened["deep/X"].attrs[name] = np.float32([mark])
    for file in "bc":
        np.testing.assert_array_equal(open_matrix(f"{tmp_path}/{file}.nc:deep/X", "here")[0:N], values)
    says = rf"1 values that stand for missing ones \({name} -9999\)"
    with pytest.raises(pc.InputError, match=says):
        open_matrix(f"{tmp_path}/a.nc:deep/X", "here")
    with h5py.File(tmp_path / "a.nc") as file, pytest.raises(pc.InputError, match=says):
        pc.write_arrays(tmp_path / "s", split="s", layer="l", activations=file["deep/X"])
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("dtype", "mark"), [("uint8", -9999.0), ("int16", 1e20), ("int32", np.inf), ("float16", 1e20)]
)
def test_a_number_for_missing_ones_that_the_array_cannot_hold_is_in_none_of_its_rows(tmp_path, dtype, mark):
    values = np.arange(N * D).reshape(N, D).astype(dtype)
    h5(tmp_path / "a.nc", values)
    with h5py.File(tmp_path / "a.nc", "a") as opened:
        opened["deep/X"].attrs["missing_value"] = mark
    np.testing.assert_array_equal(open_matrix(f"{tmp_path}/a.nc:deep/X", "here")[0:N], values)


@pytest.mark.parametrize("version", [2, 3])
def test_what_xarray_calls_missing_in_zarr_is_not_taken_for_a_value(tmp_path, version):
    values = np.arange(N * D, dtype=np.float32).reshape(N, D)
    for mark in (5.0, -9999.0):
        data = xr.Dataset({"X": (("n", "d"), values)})
        path = tmp_path / f"{mark}.zarr"
        data.to_zarr(path, zarr_format=version, consolidated=False, encoding={"X": {"_FillValue": mark}})
    np.testing.assert_array_equal(open_matrix(f"{path}:X", "here")[0:N], values)
    assert np.isnan(xr.open_zarr(tmp_path / "5.0.zarr", consolidated=False)["X"].values).sum() == 1
    with pytest.raises(pc.InputError, match=r"1 values that stand for missing ones \(_FillValue 5\)"):
        open_matrix(f"{tmp_path}/5.0.zarr:X", "here")


def test_tensors_that_are_views_of_others_signs_are_read_and_those_without_values_refused(tmp_path):
    values = torch.arange(6.0).reshape(3, 2)
    for tensor in (torch._neg_view(-values), (values + 0j).conj().real):
        store = pc.write_arrays(tmp_path / str(id(tensor)), split="s", layer="l", activations=tensor)
        np.testing.assert_array_equal(store.matrix("s", "l"), values)
    torch.save({"X": values.to("meta"), "F": values.to(torch.float8_e5m2)}, tmp_path / "a.pt")
    for key, says in (("X", "without values"), ("F", "float8_e5m2: no numpy dtype")):
        with pytest.raises(pc.InputError, match=says):
            open_matrix(f"{tmp_path}/a.pt:{key}", "here")


def test_rows_that_nobody_counted_are_refused(tmp_path):
    lazy = da.from_array(np.ones((4, 2), np.float32))
    with pytest.raises(pc.InputError, match=r"shape \(nan, 2\)"):
        pc.write_arrays(tmp_path / "s", split="s", layer="l", activations=lazy[lazy[:, 0] > 0])


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["h5", "parquet", "npz"])
def test_larger_than_memory(tmp_path, ending):
    """1.6 GB in one piece within 1 GiB: row groups and archives are not read whole."""
    n, d = 400_000, 2048
    path = tmp_path / f"a.{ending}"
    rng = np.random.default_rng(0)
    block = rng.normal(size=(8192, d)).astype(np.float16)
    if ending == "h5":
        with h5py.File(path, "w") as file:
            array = file.create_dataset("X", (n, d), np.float16)
            for i in range(0, n, 8192):
                array[i : i + 8192] = block[: min(8192, n - i)]
    elif ending == "parquet":
        schema = pa.schema([("X", pa.list_(pa.float16(), d))])
        with pq.ParquetWriter(path, schema) as writer:
            whole = pa.concat_arrays(
                [pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), d)] * (n // 8192 // 2)
            )
            for _ in range(2):
                writer.write_table(pa.table({"X": whole}), row_group_size=1 << 30)
            del whole
    else:
        flat = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", np.float16, (n, d))
        for i in range(0, n, 8192):
            flat[i : i + 8192] = block[: min(8192, n - i)]
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(tmp_path / "X.npy", "X.npy")
    code = f"""
import probecache as pc
pc.import_features({str(tmp_path / "s")!r}, split="s", layer="l", activations={str(path)!r})
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1 << 20, f"{int(done.stdout) >> 10} MiB"


def matlab(path, **variables):
    """What MATLAB writes up to version 7, or as 7.3: HDF5 with its axes turned, after a block of text."""
    if path.stem != "new":
        scipy.io.savemat(path, variables)
        return
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in variables.items():
            file[name] = np.atleast_2d(value).T
            file[name].attrs["MATLAB_class"] = np.bytes_("double")
        file["#refs#/a"] = 1
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file")


@pytest.mark.parametrize("name", ["old.mat", "new.mat"])
def test_matlab(tmp_path, name):
    x, y = np.random.default_rng(0).normal(size=(N, D)), np.arange(N) % 3 + 1.0
    matlab(tmp_path / name, X=x, y=y[:, None], y2=y[None], half=y / 2)
    more = {"split": "s", "activations": f"{tmp_path / name}:X", "dtype": "float32", "shard_rows": R}
    for labels in ("y", "y2"):
        store = pc.import_features(tmp_path / labels, layer="l", labels=f"{tmp_path / name}:{labels}", **more)
        np.testing.assert_array_equal(store.matrix("s", "l"), x.astype(np.float32))
        assert store.labels("s").tolist() == y.tolist()
    with pytest.raises(pc.InputError, match=r"labels are float64 \(90,\)"):
        pc.import_features(tmp_path / "s", layer="l", labels=f"{tmp_path / name}:half", **more)
    with pytest.raises(pc.InputError, match=r"4 variables .*: name one, FILE:KEY"):
        pc.import_features(tmp_path / "s", split="s", layer="l", activations=tmp_path / name)


def test_matlab_texts_and_what_is_no_matrix(tmp_path):
    texts = np.array(["cat", "", "dog"], object)
    few = scipy.sparse.csc_matrix(np.eye(3))
    matlab(tmp_path / "t.mat", X=np.eye(3), c=texts, deep={"a": 1}, few=few, none=np.zeros((1, 0)))
    store = pc.import_features(
        tmp_path / "s",
        split="s",
        layer="l",
        activations=f"{tmp_path}/t.mat:X",
        labels=f"{tmp_path}/t.mat:c",
        dtype="float32",
    )
    assert store.labels("s").tolist() == [0, -1, 1]
    (tmp_path / "junk.mat").write_bytes(b"junk of another kind")
    for what, says in {
        "t.mat:few": "few is sparse: save it as a full matrix",
        "t.mat:deep": "deep is struct",
        "t.mat:none": r"shape \(0,\)",
        "junk.mat": "is no MATLAB file",
    }.items():
        with pytest.raises(pc.InputError, match=says):
            pc.import_features(tmp_path / "n", split="s", layer="l", activations=tmp_path / what)
    assert not (tmp_path / "n").exists()
