"""kill -9 of every command of the command line at random moments, and the same command again; counted.

    python -m benchmarks.store.commands                    # the record: 3 kills of each of 25 command lines
    python -m benchmarks.store.commands --kills 1 --only report --no-record

Each command runs in a forked process, so that a kill comes while it works and not while it is imported. After
it the same command has to end well, or say in one line what to do; what it then leaves must be what an
uninterrupted run does, good under `verify`, and nothing else may lie beside it.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import probecache as pc
from benchmarks.store.work import X, Y
from probecache.__main__ import main as command_line
from probecache.analyze.results.verify import is_results, verify_results
from probecache.extract.digits import write_digits
from probecache.store.verification.verify import verify

PLAN = "--layer l --train train --test test --probe ridge"
MODEL = "--model test_resnet --no-pretrained --img-size 32 --device cpu -b 32 -j 0 --layer penultimate,layer3"
PAIR = "r r2 --l2 1e-4,1 --bootstrap 200"
# what is called -> the command, and what it leaves
LINES = {
    "extract": (f"extract {MODEL} --data-dir digits --split train --limit 160 --shard-rows 32 --out e", "e"),
    "import": ("import n --split a --layer l --activations x.npy --labels y.npy --shard-rows 16", "n"),
    "import a layer": ("import s --split train --layer new --activations x.npy", "s"),
    "target": ("target s --split train --from labels.csv --name color,size", "s"),
    "subset": ("subset s --indices keep.txt --layer l --out o", "o"),
    "sweep": (f"sweep s {PLAN} --fractions 0.2,0.5,1 --seeds 3 --save-predictions --out q", "q"),
    "sweep with scores": (
        f"sweep s {PLAN} --fractions 0.2,1 --seeds 2 --save-predictions=scores --out q",
        "q",
    ),
    "sweep that grows": (f"sweep s {PLAN} --fractions 0.3,0.5,1 --seeds 3 --save-predictions --out r", "r"),
    "sweep that mends": (
        f"sweep s {PLAN} --fractions 0.5,1 --seeds 2 --save-predictions --out bad-r",
        "bad-r",
    ),
    "critical": ("critical s --layer l --probe ridge --delta 0.9 --precision 0.1 --seeds 2 --out k", "k"),
    "cka": ("cka s --layer l --split test --fractions 0.5,1 --seeds 3 --out c2", "c2"),
    "cka over another": ("cka s --layer l --split test --fractions 0.5,1 --seeds 3 --out c", "c"),
    "compare": (f"compare {PAIR} --out p", "p"),
    "compare, CSV": (f"compare {PAIR} --out p.csv", "p.csv"),
    "report": ("report r --out h2", "h2"),
    "report over another": ("report r --out h", "h"),
    "fit": ("fit s --layer l --out fitted.safetensors", "fitted.safetensors"),
    "predict": ("predict probe.safetensors s --split test --out y.csv", "y.csv"),
    "predict, parquet": ("predict probe.safetensors s --split test --out y.parquet", "y.parquet"),
    "online-code": ("online-code s --layer l --shares 0.1,0.5,1 --out code.csv", "code.csv"),
    "redundancy": ("redundancy r --keep 0.9 --indices kept.txt", "kept.txt"),
    "repair": ("repair bad-s", "bad-s"),
    "verify": ("verify s", "s"),
    "verify RESULTS": ("verify r", "r"),
    "info": ("info s", "s"),
}


def run(line: str, folder: Path, seconds: float | None = None) -> tuple[int, str, float]:
    """Exit code (-9: killed, `seconds` after its start), what was printed, and how long it took."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        os.chdir(folder)
        code: Any = 99
        try:
            command_line(line.split())
        except SystemExit as ended:
            code = ended.code or 0
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    os.close(writing)
    start = time.perf_counter()
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reading, errors="replace") as pipe:
        told = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), told, time.perf_counter() - start


def begun(folder: Path) -> None:
    """What the commands begin with: a store, RESULTS, a probe, a CKA output, a report, and damaged ones."""
    folder.mkdir()
    for split in ("train", "test"):
        wide = np.tile(X, (1, 2))
        pc.write_arrays(folder / "s", split=split, layer="l", activations=wide, labels=Y, shard_rows=32)
    np.save(folder / "x.npy", X)
    np.save(folder / "y.npy", Y)
    (folder / "keep.txt").write_text("3\n1\n20\n")
    names = pc.open_store(folder / "s").samples("train")
    rows = [f"{name},{'ab'[i % 2]},{i / 2}\n" for i, name in enumerate(names)]
    (folder / "labels.csv").write_text("sample,color,size\n" + "".join(rows))
    write_digits(folder / "digits")
    for line in (
        f"sweep s {PLAN} --fractions 0.5,1 --seeds 2 --save-predictions --out r",
        f"sweep s {PLAN} --fractions 0.5,1 --seeds 2 --l2 1 --save-predictions --out r2",
        "fit s --layer l --probe ridge --out probe.safetensors",
        "cka s --layer l --split test --fractions 0.5,1 --seeds 2 --out c",
        "report r --out h",
    ):
        code, told, _ = run(line, folder)
        assert code == 0, told
    for good, harmed, piece in (("r", "bad-r", "accuracy/c"), ("s", "bad-s", "train/l/activations/c")):
        shutil.copytree(folder / good, folder / harmed)
        file = next(p for p in sorted((folder / harmed / piece).rglob("*")) if p.is_file())
        raw = file.read_bytes()
        file.write_bytes(raw[:5] + bytes([raw[5] ^ 1]) + raw[6:])


def seen(path: Path) -> Any:
    """What a reader sees of what a command left."""
    if path.is_file():
        return path.read_bytes() if path.suffix in (".csv", ".txt") else path.suffix
    if not (path / "zarr.json").exists() or path.name == "bad-s":  # a report; a store to be written again
        return sorted(str(p.relative_to(path)) for p in path.rglob("*"))
    if is_results(str(path)):
        data = pc.open_results(path).load()
        return {str(n): v.values.tobytes() for n, v in data.variables.items() if n != "seconds"}
    store, found = pc.open_store(path), {}
    for split in store.splits:
        found |= {f"{split}/{t}": store.target(split, t).values.tobytes() for t in store.targets(split)}
        found |= {f"{split}/{n}": store.matrix(split, n).tobytes() for n in store.layers_of(split)}
    return found


def good(path: Path) -> bool:
    if not (path / "zarr.json").exists() or path.name == "bad-s":
        return True
    return not (verify_results(str(path)) if is_results(str(path)) else list(verify(str(path))))


def litter(folder: Path) -> list[str]:
    marks = (".", "claim-", "lease-")
    return [p.name for p in folder.rglob("*") if p.name.startswith(marks) or p.suffix == ".tmp"]


def kills(name: str, n: int, chance: random.Random, base: Path) -> dict[str, int]:
    """n kills of a command, each in a fresh folder, and what the same command made of what was left."""
    (line, left), folder = LINES[name], base / "folder"
    shutil.copytree(base / "begun", folder)
    code, told, seconds = run(line, folder)
    assert code == 0, told
    whole = seen(folder / left)
    shutil.rmtree(folder)
    counts: Counter[str] = Counter()
    for _ in range(n):
        code = 0
        while code != -signal.SIGKILL:  # it may have ended before its time had come
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(base / "begun", folder)
            code, _, _ = run(line, folder, chance.uniform(0, seconds))
        code, told, _ = run(line, folder)
        counts["kills"] += 1
        counts["went on"] += code == 0
        counts["said in a line what to do"] += code == 2 and len(told.splitlines()) == 1
        counts["the same as uninterrupted"] += (same := seen(folder / left) == whole)
        counts["good under verify"] += (fine := good(folder / left))
        counts["litter left"] += len(lying := litter(folder))
        if code or not same or not fine or lying:
            print(f"{name}: {code}, same {same}, good {fine}, litter {lying[:3]}: {told}", file=sys.stderr)
        shutil.rmtree(folder)
    return dict(counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=3, help="of each command")
    parser.add_argument("--only", nargs="*", choices=list(LINES), default=list(LINES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-record", action="store_true")
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    base = Path(tempfile.mkdtemp(prefix="kill-commands-"))
    begun(base / "begun")
    results: dict[str, Any] = {"seed": arguments.seed}
    for name in arguments.only:
        results[name] = kills(name, arguments.kills, chance, base)
        print(name, results[name], flush=True)
    total: Counter[str] = sum((Counter(results[name]) for name in arguments.only), Counter())
    results["all"] = dict(total) | {"litter left": total["litter left"]}
    print("all", results["all"])
    shutil.rmtree(base)
    if not arguments.no_record:
        from benchmarks.record import record

        print(record("trust-commands", results))


if __name__ == "__main__":
    main()
