"""Names, globs, numbers; penultimate; layers that cannot be read out."""

import pytest
import timm
import torch
from torch import nn

from probecache.extract.backbone.features import Features, plan_features
from probecache.extract.backbone.layers import block_names, describe_layers, resolve_layers
from probecache.extract.list_layers import list_layers
from probecache.store.errors import InputError

VIT = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=4).eval()
PAPER = [
    ("resnet18", 512, "layer4"),
    ("resnet50", 2048, "layer4"),
    ("vit_small_patch16_224.augreg_in21k", 384, "blocks.11"),
    pytest.param("vit_small_patch16_224", 384, "blocks.11", marks=pytest.mark.slow),
    pytest.param("vit_small_patch32_224", 384, "blocks.11", marks=pytest.mark.slow),
    pytest.param("vit_small_patch32_224.augreg_in21k", 384, "blocks.11", marks=pytest.mark.slow),
    pytest.param("wide_resnet50_2", 2048, "layer4", marks=pytest.mark.slow),
    pytest.param("vgg16", 4096, "features.30", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["blocks.*"], [f"blocks.{i}" for i in range(4)]),
        (["-1"], ["blocks.3"]),
        (["0", "blocks.-2"], ["blocks.0", "blocks.2"]),
        (["penultimate", "blocks.1.attn"], ["penultimate", "blocks.1.attn"]),
        (["blocks.[12].norm?"], [f"blocks.{b}.norm{n}" for b in (1, 2) for n in (1, 2)]),
        (["blocks.3", "blocks.*"], ["blocks.3", "blocks.0", "blocks.1", "blocks.2"]),
    ],
)
def test_patterns(patterns, names):
    assert resolve_layers(VIT, patterns) == names


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("block.3", "close names: blocks.3"),
        ("9", "has 4 blocks, blocks.0 to blocks.3"),
        ("-5", "out of range"),
        ("x.*", "unknown layer"),
    ],
)
def test_unknown_patterns(pattern, words):
    with pytest.raises(InputError, match=words):
        resolve_layers(VIT, [pattern])


@pytest.mark.parametrize(("name", "neurons", "last"), PAPER)
def test_the_papers_backbones(name, neurons, last):
    rows = list_layers(name, img_size=64)
    assert (rows[-1].name, rows[-1].neurons, rows[-1].bytes_per_image) == (
        "penultimate",
        neurons,
        2 * neurons,
    )
    model = timm.create_model(name, **({"img_size": 64} if name.startswith("vit") else {})).eval()
    assert block_names(model)[-1] == last
    layers = describe_layers(model, ["penultimate"], (64, 64))
    module = Features(model, plan_features(layers, ["avg"]), (0.5,) * 3, (0.5,) * 3, torch.float32)
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        (got,) = module(images)
        expected = model.forward_head(model.forward_features((images / 255 - 0.5) / 0.5), pre_logits=True)
    assert torch.allclose(got, expected, rtol=1e-4, atol=1e-5)


class Plain(nn.Module):
    """No timm methods: one shared activation, one unused module, two linear layers."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.act = nn.ReLU()
        self.hidden = nn.Linear(8, 6)
        self.classifier = nn.Linear(6, 2)
        self.unused = nn.Linear(3, 3)

    def forward(self, x):
        return self.classifier(self.act(self.hidden(self.act(self.body(x)))))


def test_penultimate_of_a_plain_module_feeds_its_last_linear_layer():
    model = Plain().eval()
    layers = describe_layers(model, ["penultimate", "body.0"], (16, 16))
    assert (layers[0].module, layers[0].kind) == ("classifier", "before")
    module = Features(model, plan_features(layers, ["flatten"]), (0.0,) * 3, (1.0,) * 3, torch.float32)
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    with torch.inference_mode():
        x = images / 255
        penultimate, first = module(images)
        assert torch.allclose(penultimate, model.act(model.hidden(model.act(model.body(x)))))
        # The ReLU that follows works in place: what is kept is the convolution's own output.
        assert torch.allclose(first, model.body[0](x).flatten(1))
        assert (first < 0).any()


def test_a_module_without_a_linear_layer_is_its_own_penultimate():
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    (layer,) = describe_layers(model, ["penultimate"], (8, 8))
    assert layer.layout.shape == (5,)


@pytest.mark.parametrize(("name", "words"), [("act", "runs 2 times"), ("unused", "does not run")])
def test_ambiguous_layers_are_refused(name, words):
    with pytest.raises(InputError, match=words):
        describe_layers(Plain(), [name], (16, 16))
    assert describe_layers(Plain(), [name], (16, 16), strict=False) == []


def test_the_pass_stops_after_the_last_layer():
    ran = []
    model = timm.create_model("resnet18").eval()
    for name in ("layer2", "layer3", "fc"):
        getattr(model, name).register_forward_hook(lambda *_, name=name: ran.append(name))
    layers = describe_layers(model, ["layer2"], (64, 64))
    ran.clear()
    module = Features(model, plan_features(layers, ["avg"]), (0.5,) * 3, (0.5,) * 3, torch.float32)
    with torch.inference_mode():
        module(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
        assert ran == ["layer2"]
        module.close()
        model(torch.zeros(1, 3, 64, 64))
    assert ran == ["layer2", "layer2", "layer3", "fc"]


def test_logits_beside_penultimate():
    model = timm.create_model("test_resnet").eval()
    layers = describe_layers(model, ["fc", "penultimate"], (64, 64))
    module = Features(model, plan_features(layers, ["avg"]), (0.5,) * 3, (0.5,) * 3, torch.float32)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        logits, penultimate = module(images)
        module.close()
        assert torch.allclose(logits, model((images / 255 - 0.5) / 0.5), atol=1e-5)
        assert torch.allclose(model.fc(penultimate), logits, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch 2.11, when it loads dynamo
@pytest.mark.parametrize("names", [["layer2"], ["layer1", "penultimate"]])
def test_compiled_features_are_one_graph_and_equal(names):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    model = timm.create_model("test_resnet").eval()
    layers = describe_layers(model, names, (64, 64))
    module = Features(
        model, plan_features(layers, ["avg"]), (0.5,) * 3, (0.5,) * 3, torch.float32, stop_early=False
    )
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        plain = module(images)
        compiled = torch.compile(module, backend=backend)(images)
    torch._dynamo.reset()
    assert len(graphs) == 1
    assert all(torch.equal(a, b) for a, b in zip(plain, compiled, strict=True))
