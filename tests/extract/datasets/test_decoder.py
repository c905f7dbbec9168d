"""torchcodec beside Pillow: the same pixels for every kind of file, whole or damaged, or it is Pillow's."""

import io
import logging
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from probecache.extract.datasets.decode import decode, to_mode
from probecache.extract.datasets.decoder import Decoder, Encoded
from probecache.extract.datasets.open import open_images
from probecache.extract.pipeline.loader import batch_ranges, open_batches
from probecache.extract.recompute import recompute
from probecache.extract.run import extract_features
from probecache.extract.settings import Settings
from probecache.store.errors import FingerprintMismatch, InputError
from probecache.store.layout import FAILED, OK
from tests.extract.datasets.test_decode import SMALL, Opened, encoded, every_reader

RANDOM = np.random.default_rng(0)
COLOUR = Image.fromarray(RANDOM.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize((131, 97))
ALPHA = Image.fromarray(RANDOM.integers(0, 256, (97, 131), dtype=np.uint8))
SQUARE = COLOUR.crop((0, 0, 97, 97))


@pytest.fixture
def torchcodec():
    return pytest.importorskip("torchcodec", reason="torchcodec is not installed (the decoders extra)")


def file(picture, form, **options):
    out = io.BytesIO()
    picture.save(out, form, **options)
    return out.getvalue()


def exif(orientation):
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def gamma():
    chunks = PngImagePlugin.PngInfo()
    chunks.add(b"gAMA", (220_000).to_bytes(4, "big"))
    return chunks


def torchcodecs_own():
    """Files that torchcodec decodes."""
    grey, faint = COLOUR.convert("L"), COLOUR.copy()
    faint.putalpha(ALPHA)
    files = {f"jpeg {sub}": file(COLOUR, "JPEG", subsampling=sub) for sub in ("4:4:4", "4:2:2", "4:2:0")}
    files["jpeg, progressive"] = file(COLOUR, "JPEG", progressive=True, quality=40)
    files["jpeg, restarts"] = file(COLOUR, "JPEG", restart_marker_rows=1)
    files["jpeg, stored as RGB"] = file(COLOUR, "JPEG", keep_rgb=True)
    files["jpeg, upright by EXIF"] = file(COLOUR, "JPEG", exif=exif(1))
    files |= {"jpeg, grey": file(grey, "JPEG"), "jpeg, one pixel": file(COLOUR.crop((0, 0, 1, 1)), "JPEG")}
    files |= {f"png {mode}": file(COLOUR.convert(mode), "PNG") for mode in ("RGB", "L", "LA", "RGBA")}
    files |= {"png, alpha": file(faint, "PNG"), "png, gamma": file(COLOUR, "PNG", pnginfo=gamma())}
    files["png, grey, gamma"] = file(grey, "PNG", pnginfo=gamma())
    files["webp"] = file(COLOUR, "WEBP")
    files["webp, lossless"] = file(COLOUR, "WEBP", lossless=True)
    files["webp, alpha"] = file(faint, "WEBP", lossless=True, exact=True)
    return files


def pillows():
    """Files that torchcodec decodes otherwise than Pillow, or not at all."""
    files = {f"{form}, turned": file(SQUARE, form, exif=exif(6)) for form in ("JPEG", "PNG", "WEBP")}
    files["jpeg, CMYK"] = file(COLOUR.convert("CMYK"), "JPEG")
    files["jpeg, bytes after its end"] = file(COLOUR, "JPEG") + b"more"
    files["several pictures"] = file(COLOUR, "MPO", save_all=True, append_images=[COLOUR.rotate(180)])
    files["webp, animated"] = file(COLOUR, "WEBP", save_all=True, append_images=[COLOUR.rotate(180)])
    files["png, a transparent colour"] = file(COLOUR, "PNG", transparency=COLOUR.getpixel((0, 0)))
    files["png, 16 bit"] = file(Image.fromarray(np.asarray(ALPHA).astype(np.uint16) * 251), "PNG")
    files |= {f"png {mode}": file(COLOUR.convert(mode), "PNG") for mode in ("P", "1")}
    files |= {form: file(COLOUR, form) for form in ("GIF", "BMP", "TIFF", "PPM")}
    return files


def pixels(image, mode):
    return np.asarray(to_mode(image, mode))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_kind_of_file_has_pillows_pixels(torchcodec, mode):
    decoder = Decoder("torchcodec")
    for expected, files in ((0, torchcodecs_own()), (1, pillows())):
        for name, content in files.items():
            decoder.fallbacks = 0
            got = pixels(decoder(Encoded(content)), mode)
            assert np.array_equal(got, pixels(decode(content), mode)), name
            assert decoder.fallbacks == expected, name


def test_torchcodec_turns_pictures_by_exif_which_is_why_those_stay_pillows(torchcodec):
    from torchcodec.decoders import decode_image

    for form in ("JPEG", "PNG", "WEBP"):
        content = file(SQUARE, form, exif=exif(6))
        theirs = decode_image(content).permute(1, 2, 0).numpy()
        assert not np.array_equal(theirs, pixels(decode(content), "RGB"))


def outcome(decoder, content):
    """Pixels, or the kind of error."""
    try:
        return pixels(decoder(Encoded(content)), "RGB")
    except Exception as error:
        return type(error).__name__


@pytest.mark.filterwarnings("ignore")  # Pillow's, about damaged metadata
def test_damaged_files_give_pillows_pixels_or_its_refusal(torchcodec):
    random, seen = np.random.default_rng(1), {"pixels": 0, "refused": 0}
    ours, pillow = Decoder("torchcodec"), Decoder()
    for name, content in torchcodecs_own().items():
        for damage in range(40):
            broken, place = bytearray(content), int(random.integers(0, len(content)))
            if damage % 4 == 0:
                del broken[place:]
            elif damage % 4 == 1:
                broken[place] ^= int(random.integers(1, 256))
            elif damage % 4 == 2:
                del broken[place : place + int(random.integers(1, 50))]
            else:
                broken[place : place + 8] = bytes(8)
            got, want = outcome(ours, bytes(broken)), outcome(pillow, bytes(broken))
            assert np.array_equal(got, want), (name, damage)
            seen["refused" if isinstance(want, str) else "pixels"] += 1
    assert min(seen.values()) > 50


@pytest.mark.parametrize("workers", [0, 1])
def test_every_reader_decodes_by_it_and_counts_what_was_pillows(torchcodec, tmp_path, workers):
    contents = [*encoded().values(), b"", *torchcodecs_own().values()]
    ranges = batch_ranges([(0, len(contents))], 7)
    names = []
    for name, images in every_reader(contents, tmp_path):
        if name == "torch":
            continue
        names.append(name)
        by_pillow = list(open_batches(images, SMALL, ranges))
        chosen = replace(images, decoder=Decoder("torchcodec"))
        ours = list(open_batches(chosen, SMALL, ranges, workers=workers))
        for one, other in zip(ours, by_pillow, strict=True):
            assert torch.equal(one.images, other.images)
            assert one.errors == other.errors
        status = np.concatenate([batch.status for batch in ours])
        assert list(np.flatnonzero(status == FAILED)) == [12, 13]  # float depth, empty
        assert (status == OK).sum() == len(contents) - 2
        # Of the 13 of `encoded` RGB, L, LA and RGBA are torchcodec's, and one fails.
        assert sum(batch.fallbacks for batch in ours) == 8
        assert sum(batch.fallbacks for batch in by_pillow) == 0
    assert names[:3] == ["folder", "tar", "shards"]


def photos(root):
    for row, name in enumerate(("jpeg 4:2:0", "png RGB", "webp", "jpeg, grey")):
        (root / "a").mkdir(parents=True, exist_ok=True)
        (root / "a" / f"{row}.img.png").write_bytes(torchcodecs_own()[name])
    (root / "a" / "4.png").write_bytes(pillows()["png P"])
    return root


def test_stores_are_equal_their_fingerprints_are_not(torchcodec, tmp_path, caplog):
    made = {"data_dir": photos(tmp_path / "photos"), "pretrained": False, "workers": 0, "device": "cpu"}
    one = extract_features("test_resnet", out=tmp_path / "p.zarr", **made)
    with caplog.at_level(logging.WARNING, "probecache.extract"):
        other = extract_features("test_resnet", out=tmp_path / "t.zarr", decoder="torchcodec", **made)
    assert "1 of 5 images were decoded by Pillow" in caplog.text
    assert np.array_equal(one.matrix("train", "penultimate"), other.matrix("train", "penultimate"))
    assert other.report("train", "penultimate")["summary"]["fallbacks"] == 1
    assert "decoder" not in one.fingerprint.compute  # as in stores made before there was a choice
    assert set(one.fingerprint.compute["versions"]) == {"torch", "torchvision", "pillow"}
    assert other.fingerprint.compute["decoder"] == "torchcodec"
    assert "torchcodec" in other.fingerprint.compute["versions"]
    assert all(result.good for result in recompute(other, "train", 5, device="cpu"))
    for out, decoder, words in (
        ("p.zarr", "torchcodec", r'decoder: stored nothing, asked "torchcodec"'),
        ("t.zarr", "pillow", r'decoder: stored "torchcodec", asked nothing'),
    ):
        with pytest.raises(FingerprintMismatch, match=words):
            extract_features("test_resnet", out=tmp_path / out, split="test", decoder=decoder, **made)


def test_recompute_decodes_as_the_store_says(torchcodec, tmp_path, monkeypatch):
    made = {"data_dir": photos(tmp_path / "photos"), "pretrained": False, "workers": 0, "device": "cpu"}
    store = extract_features("test_resnet", out=tmp_path / "t.zarr", decoder="torchcodec", **made)
    asked = []
    monkeypatch.setattr(Decoder, "__post_init__", lambda self: asked.append(self.name))
    recompute(store, "train", 2, device="cpu")
    assert "torchcodec" in asked


def test_a_decoder_that_is_unknown_absent_or_without_work_is_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="unknown decoder 'opencv'; allowed: pillow, torchcodec"):
        Settings.of(decoder="opencv")
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(InputError, match=r"pip install 'probecache\[decoders\]'") as caught:
        extract_features(
            "test_resnet", data_dir=photos(tmp_path / "p"), out=tmp_path / "s.zarr", decoder="torchcodec"
        )
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "s.zarr").exists()


def test_a_torch_dataset_decodes_for_itself(torchcodec):
    with pytest.raises(InputError, match="Opened is a torch Dataset, which decodes for itself"):
        open_images(Opened([]), decoder="torchcodec")
    with pytest.raises(InputError, match="torch/cifar10 is a torch Dataset"):
        open_images("torch/cifar10", decoder="torchcodec")
