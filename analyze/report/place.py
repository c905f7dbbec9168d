"""Which folder a report may be written to."""

from pathlib import Path

from probecache.analyze.results.lock import real_place
from probecache.store.errors import InputError

OURS = frozenset(("index.html", "figures", "tables"))


def check_folder(out: str | Path) -> None:
    """InputError unless `out` is a report, an empty folder, or nothing yet: other files are not ours."""
    out = real_place(out)
    if out.suffix == ".html" and not out.exists():
        raise InputError(f"got --out {out}; name a folder for the report, which gets an index.html")
    if (out.exists() and not out.is_dir()) or (out / "zarr.json").exists():
        raise InputError(
            f"got --out {out}, which is a file, a store or RESULTS: name a folder for the report"
        )
    if out.is_dir():
        others = sorted(p.name for p in out.iterdir() if p.name not in OURS)
        if others:
            raise InputError(
                f"got --out {out}, which holds other files than a report's ({', '.join(others[:3])}): name "
                "a folder for the report, which is replaced as a whole"
            )
