"""The tables of docs/scale.md: a store of many shards, before and now; RESULTS of many probes; two plans."""

from typing import Any

from benchmarks.markdown import latest, source, table

_LATENCY = 0.03


def scale() -> str:
    """A store of many shards on S3: requests and seconds, before and after."""
    entry, old, small_entry = latest("scale"), latest("scale-before"), latest("scale-small")
    now, before = entry["results"], old["results"]
    now["s3"]["verify"] = small_entry["results"]["verify"]
    rows = []
    for name in ("open", "info", "digest", "labels", "one block", "start of a sweep"):
        a, b = before["s3"][name], now["s3"][name]
        grows = name not in ("open", "one block")
        at_size = _requests(a) * (now["shards"] / before["shards"] if grows else 1)
        least = b["processor seconds"] + b["requests"]["server's processor seconds"] + _waits(b) * _LATENCY
        rows.append(
            [
                name,
                f"{_requests(a):,}",
                f"{at_size:,.0f}",
                f"{_requests(b):,}",
                f"{least:.1f}",
                f"{b['seconds']:.1f}",
            ]
        )
    head = [
        "",
        f"before, {before['shards']:,}",
        f"before, {now['shards']:,}",
        "now",
        "s, computed",
        "s, seen",
    ]
    text = (
        f"Requests to S3, with {1000 * _LATENCY:.0f} ms of latency, for {now['shards']:,} shards. *Before* "
        f"is format 1, with {before['files per shard']:.0f} files a shard; *now* is format 2, with "
        f"{now['files per shard']:.0f}. The first column was measured, the second is in proportion to it. "
        "*Computed* seconds are the requests one after the other and the processor time of both sides; "
        "*seen* seconds were measured on a machine that others kept busy. "
    )
    small = [
        [
            f"{name}, {found['s3'][name]['shards']} shards, {when}",
            f"{_requests(found['s3'][name]):,}",
            f"{found['s3'][name]['processor seconds']:.1f}",
            f"{found['s3'][name]['seconds']:.0f}",
        ]
        for name in ("verify", "resume")
        for when, found in (("before", before), ("now", now))
    ]
    local = [
        [name, f"{value['processor seconds']:.2f}", f"{value['requests'].get('opened', 0):,}"]
        for name, value in now["local"].items()
        if "shards" not in value
    ]
    return "\n\n".join(
        [
            text + source(entry),
            table(head, rows),
            "These read every shard, before and now:",
            table(["on S3", "requests", "processor s", "s seen"], small),
            _targets(small_entry),
            f"The same {now['shards']:,} shards on a local disk:",
            table(["", "processor s", "files opened"], local),
        ]
    )


def _targets(entry: dict[str, Any]) -> str:
    found = entry["results"]
    counts = [
        f"{name}: {_requests(of):,} requests, {of['seconds']:.0f} s"
        for name, of in found["start of a sweep"].items()
    ]
    return (
        f"The start of a sweep over {found['targets']} targets beside `label`, by how they are stored: "
        f"{'; '.join(counts)}. On a local disk "
        + " and ".join(
            f"{count} files are opened for {int(n):,} shards"
            for n, count in found["files opened on a local disk"].items()
        )
        + f". `verify` and these counts: {source(entry)}"
    )


def _requests(found: dict[str, Any]) -> int:
    return sum(n for name, n in found["requests"].items() if "seconds" not in name)


def _waits(found: dict[str, Any]) -> int:
    return _requests(found)


def scale_results() -> str:
    """RESULTS of many probes."""
    entry = latest("scale-results")
    rows = [
        [
            f"{r['probes']:,}",
            f"{r['files']:,}",
            f"{r['megabytes']:,}",
            f"{r['commit, processor milliseconds']}",
            f"{r['last tenth of the commits, processor milliseconds']}",
            f"{r['opened, processor seconds']}",
            f"{r['grown by a selection, megabytes written']}",
            f"{r['grown by a fraction, megabytes written']}",
        ]
        for r in entry["results"]["sizes"]
    ]
    head = [
        "probes",
        "files",
        "MB",
        "commit, ms",
        "last commits, ms",
        "opened, s",
        "+ selection, MB",
        "+ fraction, MB",
    ]
    return (
        "Processor time of commits and of opening; bytes that growth by a selection or a fraction writes. "
        + source(entry)
        + "\n\n"
        + table(head, rows)
    )


# rows, neurons, bytes of a value, bytes of a sample's name, classes
PLANS = {
    "ImageNet-1k, 2,048 neurons": (1_281_167, 2048, 2, 30, 1000),
    "LAION-400M, 768 neurons": (400_000_000, 768, 2, 40, 0),
}
_SHARD, _PUT, _GET, _MONTH = (
    8192,
    5e-6,
    4e-7,
    0.023,
)  # rows; dollars a request and a GB a month, S3's list price
_RATE = 1e8  # bytes a second of one reader


def scale_plans() -> str:
    """Bytes, requests, hours and money of two data sets, from sizes that follow from the format."""
    rows = []
    for name, (n, d, item, text, _) in PLANS.items():
        shards = -(-n // _SHARD)
        values, names = n * d * item, n * (text + 4 + 9)
        commits = shards * (8 * (9 * d + 11) + 4)
        data = values + 2 * names + commits
        # write: rows, activations, commit, claim; and the claim read, renewed and given back
        puts, gets = 4 * shards, 6 * shards
        reads = shards * (1 + max(1, round(_SHARD * d * item / 2**22)))
        rows.append(
            [
                name,
                f"{shards:,}",
                f"{data / 1e9:,.1f}",
                f"{100 * (data - values) / data:.1f}%",
                f"{puts:,}",
                f"{puts * _PUT + gets * _GET:.2f}",
                f"{data / 1e9 * _MONTH:.2f}",
                f"{reads:,}",
                f"{reads * _GET:.3f}",
                f"{values / _RATE / 3600:.2f}",
            ]
        )
    head = [
        "",
        "shards",
        "GB",
        "not features",
        "puts",
        "$ to write",
        "$ a month",
        "gets of a pass",
        "$",
        "hours",
    ]
    return table(head, rows)
