"""Every pooling over every kind of backbone, against the definition, position by position."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

from probecache.extract.backbone.features import Features, plan_features
from probecache.extract.backbone.layers import describe_layers, resolve_layers
from probecache.extract.backbone.layout import layout_of
from probecache.extract.backbone.pooling import Layout, pool_output
from probecache.extract.backbone.survey import Join, Seen, Survey
from probecache.extract.datasets.preprocess import resolve_preprocess
from probecache.store.errors import InputError

# name, create_model arguments, layer, kind of output, prefix tokens, class token
FIXED = ("xcit", "test")
SMALL = {"img_size": 64, "depth": 2}
SWIN = {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)}
FAMILIES = [
    ("resnet18", {}, "layer3", "nchw", 0, False),
    ("test_efficientnet", {}, "blocks.-1", "nchw", 0, False),
    ("mobilenetv3_small_050", {}, "blocks.3", "nchw", 0, False),
    ("test_convnext", {}, "stages.-1", "nchw", 0, False),
    ("densenet121", {"growth_rate": 4}, "features.denseblock2", "nchw", 0, False),
    ("regnetx_002", {}, "s3", "nchw", 0, False),
    ("poolformer_s12", {}, "stages.1", "nchw", 0, False),
    ("pvt_v2_b0", {"depths": (1, 1, 1, 1)}, "stages.2", "nchw", 0, False),
    ("test_maxvit", {}, "stages.1", "nchw", 0, False),
    ("test_mambaout", {}, "stages.1", "nhwc", 0, False),
    ("vit_tiny_patch16_224", SMALL, "blocks.-1", "tokens", 1, True),
    ("vit_tiny_patch16_224", {**SMALL, "class_token": False, "global_pool": "avg"}, "-1", "tokens", 0, False),
    ("vit_base_patch16_reg4_gap_256", {**SMALL, "embed_dim": 96, "num_heads": 3}, "-1", "tokens", 4, False),
    ("vit_small_patch16_dinov3", SMALL, "-1", "tokens", 5, True),
    ("deit_tiny_distilled_patch16_224", SMALL, "blocks.0", "tokens", 2, True),
    ("eva02_tiny_patch14_224", {"img_size": 56, "depth": 2}, "blocks.1", "tokens", 1, True),
    ("beit_base_patch16_224", {**SMALL, "embed_dim": 96, "num_heads": 3}, "-1", "tokens", 1, True),
    ("cait_xxs24_224", SMALL, "blocks.1", "tokens", 0, False),
    ("xcit_nano_12_p16_224", {"depth": 2}, "blocks.0", "tokens", 0, False),
    ("mixer_s32_224", {"img_size": 64}, "blocks.-1", "tokens", 0, False),
    ("resmlp_12_224", {"img_size": 64}, "blocks.-1", "tokens", 0, False),
    ("swin_tiny_patch4_window7_224", SWIN, "layers.0", "nhwc", 0, False),
    ("swinv2_tiny_window8_256", SWIN, "layers.1", "nhwc", 0, False),
    ("hiera_tiny_224", {"img_size": 64, "embed_dim": 24, "num_heads": 1}, "blocks.1", "tokens", 0, False),
    ("mvitv2_tiny", {"img_size": 64}, "stages.1", "tokens", 0, False),
]


def by_hand(x, layout, pool):
    """The definition, position by position, in float64."""
    x = x.double().numpy()
    if layout.kind == "nchw":
        x = x.reshape(*x.shape[:2], -1).transpose(0, 2, 1)  # (n, positions, c)
    elif layout.kind == "nhwc":
        x = x.reshape(x.shape[0], -1, x.shape[-1])
    patches = x[:, layout.prefix :]
    mean = sum(patches[:, i] for i in range(patches.shape[1])) / patches.shape[1]
    if pool == "avg":
        return mean
    if pool == "max":
        return patches.max(1)
    return x[:, 0] if pool == "cls" else np.concatenate([x[:, 0], mean], 1)


@pytest.mark.parametrize(
    ("name", "kwargs", "layer", "kind", "prefix", "has_class"),
    FAMILIES,
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_families(name, kwargs, layer, kind, prefix, has_class):
    if not timm.is_model(name):
        pytest.skip(f"timm {timm.__version__} has no {name}")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name, **kwargs).eval()
    size = kwargs.get("img_size") or (model.pretrained_cfg["input_size"][-1] if name[:4] in FIXED else 64)
    # Two classifiers on two tokens: there is no one layer that feeds them.
    names = [*resolve_layers(model, [layer]), *([] if "distilled" in name else ["penultimate"])]
    layers = describe_layers(model, names, (size, size))
    layout = layers[0].layout
    assert (layout.kind, layout.prefix, layout.has_class) == (kind, prefix, has_class)
    pools = ["avg", "max", "flatten", "none", *(["cls", "cls+avg"] if has_class else [])]
    features = plan_features(layers, pools)
    module = Features(model, features, (0.5,) * 3, (0.5,) * 3, torch.float32)
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    captured = []
    handle = dict(model.named_modules())[layers[0].module].register_forward_hook(
        lambda _m, _i, out: captured.append((out[0] if isinstance(out, tuple) else out).clone())
    )
    with torch.inference_mode():
        outputs = dict(zip([f.name for f in features], module(images), strict=True))
        module.close()
        x = (images.float() / 255 - 0.5) / 0.5
        expected = model.forward_head(model.forward_features(x), pre_logits=True)
    handle.remove()
    if "penultimate" in names:
        assert torch.allclose(outputs["penultimate"], expected.flatten(1), rtol=1e-4, atol=1e-5)
    raw = captured[0]
    for feature in [f for f in features if f.name != "penultimate"]:
        output = outputs[feature.name]
        assert output.shape == (2, feature.neurons)
        if feature.pool in ("flatten", "none"):
            folded = output.reshape(2, *layout.kept_shape(feature.pool))
            assert torch.equal(
                folded, raw if feature.pool == "none" else raw[:, layout.prefix :] if prefix else raw
            )
        else:
            wanted = by_hand(raw, layout, feature.pool)
            assert np.abs(output.numpy() - wanted).max() <= 1e-5 * max(1, np.abs(wanted).max())
    if not has_class:
        with pytest.raises(InputError, match="no class token"):
            plan_features(layers, ["cls"])


def described(shape, model, image=(64, 64), module=None, joins=(), maps=(), last=()):
    """The layout of an output of `shape` in a pass where this was seen."""
    found = Survey({}, {}, {}, 3, image, [], {}, list(joins), set(maps), set(last))
    return layout_of(Seen(1, shape, joins=len(joins)), module, model, found)


def test_tokens_that_joined_are_left_out_and_no_others():
    model = nn.Module()
    model.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
    maps, last = {(14, 14)}, {(201, 8), (196, 8), (195, 8)}
    joined = [Join(197, 1), Join(201, 5)]
    seen = {"maps": maps, "last": last, "image": (224, 224)}
    assert described((201, 8), model, joins=joined, **seen).prefix == 5
    assert described((196, 8), model, **seen).prefix == 0  # before they join
    assert described((196, 8), model, joins=joined[:1], **seen).prefix == 0  # after they left
    assert described((195, 8), model, joins=joined[:1], **seen).kind == "other"
    assert described((201, 8), model, joins=[Join(201, None)], **seen).kind == "other"
    model.num_prefix_tokens = 4  # what the model says of itself is at odds with what was seen
    assert described((201, 8), model, joins=joined, **seen).kind == "other"
    assert described((98 + 4, 8), model, maps={(14, 7)}, last={(102, 8)}, image=(224, 112)).prefix == 4


def test_channels_before_positions_are_not_averaged():
    model = nn.Module()
    assert described((64, 49), model, (224, 224), maps={(7, 7)}).kind == "other"  # either axis fills a grid
    assert described((49, 64), model, (224, 224), maps={(7, 7)}, last={(49, 64)}).kind == "tokens"
    assert described((48, 49), model, (224, 224), maps={(7, 7)}, last={(48, 49)}).kind == "other"


def test_maps_are_told_from_other_arrays_by_the_sizes_that_convolutions_gave():
    model, square = nn.Module(), {(4, 4)}
    assert described((16, 4, 4), model, maps=square).kind == "nchw"
    assert described((4, 4, 16), model, maps=square).kind == "nhwc"
    assert described((16, 2, 2), model, maps=square).kind == "nchw"  # halved since
    assert described((3, 17, 17), model, maps=square).kind == "other"  # attention between 17 tokens
    assert described((4, 4, 4), model, maps=square, module=nn.LayerNorm(4)).kind == "nhwc"
    assert described((4, 4, 4), model, maps=square, module=nn.Conv2d(1, 4, 1)).kind == "nchw"
    assert described((4, 4, 4), model, maps=square).kind == "other"
    model.output_fmt = "NHWC"
    assert described((4, 4, 4), model, maps=square).kind == "nhwc"
    assert described((8, 4, 32), model, (128, 64)).kind == "nhwc"
    assert described((32, 8, 4), model, (128, 64)).kind == "nchw"
    assert described((2, 3, 4, 5), model).kind == "other"


def test_means_are_taken_in_float32():
    x = torch.full((1, 1, 64, 64), 1 / 3, dtype=torch.bfloat16)
    got = pool_output(x, Layout("nchw", (1, 64, 64)), "avg")
    assert got.dtype == torch.float32
    assert torch.equal(got, x[:, :, 0, 0].float())


def test_fixed_size_models_take_images_of_the_size_they_were_built_for():
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=1)
    assert resolve_preprocess(model).input_size == (3, 64, 64)


@pytest.mark.parametrize("pools", [[], ["avg", "avg"], ["mean"]])
def test_wrong_poolings_are_refused(pools):
    layers = describe_layers(nn.Sequential(nn.Conv2d(3, 4, 3)), ["0"], (8, 8))
    with pytest.raises(InputError):
        plan_features(layers, pools)
