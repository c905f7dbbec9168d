"""The study on stdout: a line per store, then each claim of the paper."""

from benchmarks.study.stores import Study

# The paper's table (first version, delta 0.9): ResNet18, ViT-S/16, ViT-S/32 span these on the same data sets.
PAPER_DR = {"cifar10": (0.70, 0.80), "flowers102": (0.50, 0.50), "pets37": (0.70, 0.90)}


def tell(studies: list[Study], summary: dict[str, dict]) -> None:
    """The table, then each claim of the paper with the stores that agree and that do not."""
    heads = ("full", "20%", "kept", "mass", "DR 0.9", "DR 0.95", "CKA 20%")
    titles = " ".join(f"{h:>{w}}" for h, w in zip(heads, (7, 7, 6, 6, 7, 8, 8), strict=True))
    print(f"\n{'':32} {titles}  paper's DR 0.9")
    for study in studies:
        s = summary[study.name]
        share = s["accuracy_at_20%"] / s["full_accuracy"]
        theirs = "{:.2f} to {:.2f}".format(*PAPER_DR[study.task]) if study.task in PAPER_DR else "none"
        print(
            f"{study.name:32} {s['full_accuracy']:7.4f} {s['accuracy_at_20%']:7.4f} {share:6.1%} "
            f"{s['critical_mass']['0.9']:6.0f} {s['dr']['0.9']:7.3f} {s['dr']['0.95']:8.3f} "
            f"{s['cka_at_20%']:8.3f}  {theirs}"
        )
    verdicts: dict[str, dict[bool, list[str]]] = {}
    for study in studies:
        for finding in summary[study.name]["findings"]:
            if finding["agrees"] is not None and not study.is_control:
                verdicts.setdefault(finding["claim"], {True: [], False: []})[finding["agrees"]].append(
                    study.name
                )
    print("\nThe paper's claims, on pretrained backbones:")
    for claim, sides in verdicts.items():
        print(f"- {claim}: agrees on {len(sides[True])}, differs on {len(sides[False])}", end="")
        print(f" ({', '.join(sides[False])})" if sides[False] else "")
