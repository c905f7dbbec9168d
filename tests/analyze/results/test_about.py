"""`probecache info RESULTS`: what it says is what was asked for, and what is not there is counted."""

import json

import numpy as np
import pytest

import probecache as pc
from probecache.analyze.results.write import Results


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path, rng = tmp_path_factory.mktemp("about") / "s.zarr", np.random.default_rng(0)
    for split in ("train", "test"):
        x = rng.normal(size=(60, 6)).astype(np.float32)
        pc.write_arrays(path, split=split, layer="l", activations=x, labels=np.arange(60) % 3 - (x[:, 0] > 2))
        pc.write_targets(path, split=split, targets={"age": np.where(x[:, 1] > 1, np.nan, x[:, 1])})
    return pc.open_store(path)


def told(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        pc.main(list(words))
    out = capsys.readouterr()
    return ended.value.code, out.out, out.err


def swept(store, out):
    return pc.sweep(store, layer="l", fractions=[0.5, 1], seeds=2, probe="ridge", l2=[0.1, 1], out=out,
                    target=["label", "age"], save_predictions="scores")  # fmt: skip


def test_what_was_swept_and_how_much_of_it_is_there(store, tmp_path, capsys, monkeypatch):
    out = tmp_path / "r.zarr"
    write = Results.commit

    def once(self, block, values):
        if block.target == "age":
            raise KeyboardInterrupt  # the first target's block is there, the second's is not
        write(self, block, values)

    monkeypatch.setattr(Results, "commit", once)
    with pytest.raises(KeyboardInterrupt):
        swept(store, out)
    code, text, _ = told(capsys, "info", str(out))
    assert code == 0
    assert "probes: 8 of 16 done" in text
    assert "target label: classes (0, 1, 2)" in text
    monkeypatch.undo()
    swept(store, out)
    code, text, _ = told(capsys, "info", str(out), "--json")
    about = json.loads(text)
    assert about["probes"] == {"planned": 16, "done": 16, "failed": 0, "not_converged": 0}
    assert about["dimensions"] == {
        "target": ["label", "age"], "layer": ["l"], "selection": ["random"], "shots": ["all"],
        "fraction": [0.5, 1.0], "seed": [0, 1], "l2": [0.1, 1.0],
    }  # fmt: skip
    assert about["targets"]["age"]["kind"] == "numbers"
    assert about["metrics"] == ["accuracy", "r2"]
    assert about["kept"] == ["predictions", "scores"]
    assert (about["settings"]["probe"], about["settings"]["store"]) == ("ridge", str(store.path))
    assert about["damages"] == []
    chunk = next(p for p in (out / "objective" / "c").rglob("*") if p.is_file())
    chunk.write_bytes(b"\0" + chunk.read_bytes()[1:])
    code, text, _ = told(capsys, "info", str(out))
    assert code == 0
    assert "damaged: " in text
    assert "objective" in text
    assert "the seals of all probes fit" not in text


def test_results_of_another_format_are_wrong_input_and_not_damage(store, tmp_path, capsys):
    out = tmp_path / "r.zarr"
    swept(store, out)
    document = json.loads((out / "zarr.json").read_bytes())
    from probecache.store.fingerprint import digest

    ours = document["attributes"]["results"]
    ours["format"] = "probecache-results-9"
    del ours["checksum"]
    ours["checksum"] = digest(document["attributes"])
    (out / "zarr.json").write_text(json.dumps(document))
    for command in ("verify", "info"):
        code, _, error = told(capsys, command, str(out))
        assert code == 2
        assert "format 'probecache-results-9', this probecache reads" in error


def test_a_store_says_classes_and_rows_without_a_label(store, capsys):
    labels, ages = store.labels("test"), store.target("test", "age").values
    code, text, _ = told(capsys, "info", str(store.path))
    assert code == 0
    gone = (labels < 0).sum()
    assert "label of test: 3 classes (0, 1, 2)" + (f", {gone} rows unlabelled" if gone else "") in text
    assert f"target age of test: numbers (1), {int(np.isnan(ages).sum())} rows unlabelled" in text
