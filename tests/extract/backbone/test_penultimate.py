"""`penultimate`: what the classifier receives, the model's own output, or a refusal."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from probecache.extract.backbone.features import Features, plan_features
from probecache.extract.backbone.layers import describe_layers
from probecache.store.errors import InputError

IMAGES = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(9))


def read(model, name="penultimate", pool="none", images=IMAGES):
    layers = describe_layers(model, [name], tuple(images.shape[2:]), images.shape[1])
    module = Features(model, plan_features(layers, [pool]), (0.0,) * 3, (1.0,) * 3, torch.float32)
    with torch.no_grad():
        (found,) = module(images)
    module.close()
    return found


def made(build, *arguments, **options):
    """The same weights each time, of modules among the arguments too: in one draw of 300, four outputs before
    a ReLU have none below zero, and what a ReLU never does cannot be seen."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for part in (part for one in arguments if isinstance(one, nn.Module) for part in one.modules()):
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
        return build(*arguments, **options).eval()


class Block(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(d), nn.Linear(d, 2 * d), nn.Linear(2 * d, d)

    def forward(self, x):
        x = x + x.mean(1, keepdim=True)
        return x + self.fc2(self.fc1(self.norm(x)).relu())


class Tokens(nn.Module):
    """Patches, a class token, residual blocks; what comes last is the caller's."""

    def __init__(self, head, d=16, registers=0):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, d, 8, 8)
        self.cls_token = nn.Parameter(torch.randn(1, 1, d))
        self.register_tokens = nn.Parameter(torch.randn(1, registers, d)) if registers else None
        self.blocks = nn.ModuleList([Block(d) for _ in range(2)])
        self.norm, self.head = nn.LayerNorm(d), head

    def forward(self, x):
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        if self.register_tokens is not None:
            registers = self.register_tokens.expand(len(x), -1, -1)
            x = torch.cat([x[:, :1], registers, x[:, 1:]], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def vgg(*end):
    model = torchvision.models.vgg11(weights=None, num_classes=5)
    model.classifier = nn.Sequential(nn.Linear(512 * 49, 32), nn.ReLU(inplace=True), nn.Linear(32, 32), *end)
    return model


def without_fc():
    model = torchvision.models.resnet18(weights=None)
    model.fc = nn.Identity()
    return model


@pytest.mark.parametrize(
    "model",
    [
        made(Tokens, nn.Identity()),
        made(vgg, nn.ReLU(inplace=True), nn.Identity()),
        made(without_fc),
        made(timm.create_model, "test_resnet", num_classes=0),
        made(timm.create_model, "test_vit", num_classes=0, img_size=64),
        made(timm.create_model, "mobilenetv3_small_050", num_classes=0),
    ],
    ids=lambda m: type(m).__name__,
)
def test_without_a_classifier_it_is_the_models_own_output(model):
    with torch.no_grad():
        assert torch.equal(read(model), model(IMAGES))
        assert torch.equal(read(model, "output"), model(IMAGES))


@pytest.mark.parametrize(
    ("model", "classifier", "end"),
    [
        (made(Tokens, nn.Linear(16, 4)), "head", nn.Identity()),
        (made(Tokens, nn.Sequential(nn.Linear(16, 4), nn.LogSoftmax(1))), "head.0", nn.LogSoftmax(1)),
        (made(Tokens, nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 4))), "head.2", nn.Identity()),
        (made(vgg), "classifier.2", nn.Identity()),
        (made(torchvision.models.mobilenet_v3_small, weights=None), "classifier.3", nn.Identity()),
        (made(torchvision.models.swin_t, weights=None), "head", nn.Identity()),
    ],
    ids=["linear", "log-softmax", "mlp", "vgg", "mobilenet", "swin"],
)
def test_fed_through_the_classifier_it_gives_the_output(model, classifier, end):
    found = read(model)
    with torch.no_grad():
        assert torch.allclose(end(model.get_submodule(classifier)(found)), model(IMAGES), atol=1e-6)


class TwoHeads(Tokens):
    def forward(self, x):
        self.head, head = nn.Identity(), self.head
        features, self.head = super().forward(x), head
        return (self.head[0](features) + self.head[1](2 * features)) / 2


class Cosine(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 16))

    def forward(self, x):
        return nn.functional.linear(nn.functional.normalize(x), self.weight)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (made(TwoHeads, nn.ModuleList([nn.Linear(16, 4), nn.Linear(16, 4)])), "head.0.input, head.1.input"),
        (made(Tokens, Cosine()), "a product that no linear layer makes.*output"),
        (made(Tokens, nn.Sequential(nn.Linear(16, 4), nn.Identity())), "may be a classifier, or features"),
        (made(Tokens, nn.Sequential(nn.Linear(16, 4), nn.Softplus())), "head.0.input"),
        (made(torchvision.models.squeezenet1_1, weights=None), "classifier may be"),
        (made(nn.Sequential, nn.Flatten(), nn.Linear(3 * 64 * 64, 4), nn.ReLU()), "all passes through"),
        (
            made(nn.Sequential, nn.Conv2d(3, 4, 8, 8), nn.Flatten(2), nn.Linear(64, 4)),
            "acts on each position",
        ),
        (made(timm.create_model, "test_resnet", features_only=True), "puts out 5 tensors.*output.0"),
        (made(timm.create_model, "deit_tiny_distilled_patch16_224", img_size=64, depth=1), "head_dist.input"),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else "",
)
def test_what_is_not_sure_is_refused_with_layers_to_choose_from(model, words):
    with pytest.raises(InputError, match=words):
        describe_layers(model, ["penultimate"], (64, 64))


class Twins(Tokens):
    def get_classifier(self):
        return self.head[0], self.head[1]

    def forward(self, x):
        self.head, head = nn.Identity(), self.head
        features, self.head = super().forward(x), head
        return (self.head[0](features) + self.head[1](features)) / 2


def test_two_classifiers_on_one_vector_leave_no_doubt():
    model = made(Twins, nn.ModuleList([nn.Linear(16, 4), nn.Linear(16, 4)]))
    found = read(model)
    with torch.no_grad():
        assert torch.allclose((model.head[0](found) + model.head[1](found)) / 2, model(IMAGES), atol=1e-6)


def test_what_a_module_is_called_with_is_a_layer():
    model = made(timm.create_model, "deit_tiny_distilled_patch16_224", img_size=64, depth=1)
    with torch.no_grad():
        tokens = model.forward_features(IMAGES)
    assert torch.allclose(read(model, "head.input"), tokens[:, 0], atol=1e-6)
    assert torch.allclose(read(model, "head_dist.input"), tokens[:, 1], atol=1e-6)


class Broken(Tokens):
    """Each child puts out something that is no feature of the image."""

    def __init__(self):
        super().__init__(nn.Linear(16, 4))
        self.constant, self.mixing, self.noise, self.pair = (Call(f) for f in self.faults())
        self.positions = nn.Embedding(4, 16)

    @staticmethod
    def faults():
        return (
            lambda x: torch.ones_like(x),
            lambda x: x - x.mean(0, keepdim=True),
            lambda x: x + torch.rand(x.shape),
            lambda x: (x, 2 * x),
        )

    def forward(self, x):
        self.positions(torch.arange(4))
        for part in (self.constant, self.mixing, self.noise, self.pair):
            part(x)
        return super().forward(x)


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ("constant", "does not depend on the image"),
        ("mixing", "other values beside another image"),
        ("noise", "or in another pass"),
        ("pair", "puts out 2 tensors"),
        ("positions", "no row per image"),
    ],
)
def test_layers_that_say_nothing_of_one_image_are_refused(layer, words):
    model = made(Broken)
    with torch.random.fork_rng(), pytest.raises(InputError, match=words):
        describe_layers(model, [layer], (64, 64))
    with torch.random.fork_rng():
        assert describe_layers(model, [layer], (64, 64), strict=False) == []


@pytest.mark.parametrize("registers", [0, 3])
def test_class_and_register_tokens_of_any_module_are_left_out(registers):
    model = made(Tokens, nn.Identity(), registers=registers)
    kept = []
    handle = model.blocks[1].register_forward_hook(lambda m, i, o: kept.append(o))
    with torch.no_grad():
        model(IMAGES)
    handle.remove()
    assert torch.allclose(read(model, "blocks.1", "avg"), kept[0][:, 1 + registers :].mean(1), atol=1e-6)
    assert torch.allclose(read(model, "blocks.1", "cls"), kept[0][:, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "layer", "prefix"),
    [
        ("crossvit_9_240", {}, "blocks.0.blocks.0.0", 1),
        ("coat_lite_tiny", {"img_size": 64}, "serial_blocks1.0", 1),
        ("convit_tiny", {"img_size": 64}, "blocks.0", 0),
        ("convit_tiny", {"img_size": 64}, "blocks.11", 1),
        ("pit_ti_distilled_224", {}, "transformers.0.blocks.0", 2),
        ("xcit_nano_12_p16_224", {"depth": 2}, "cls_attn_blocks.1", 1),
    ],
)
def test_class_tokens_of_other_names_and_places(name, options, layer, prefix):
    if not timm.is_model(name):
        pytest.skip(f"timm {timm.__version__} has no {name}")
    model = made(timm.create_model, name, **options)
    side = options.get("img_size") or model.pretrained_cfg["input_size"][-1]
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    kept = []
    handle = model.get_submodule(layer).register_forward_hook(lambda m, i, o: kept.append(o))
    with torch.no_grad():
        model(images)
    handle.remove()
    assert torch.allclose(read(model, layer, "avg", images), kept[0][:, prefix:].mean(1), atol=1e-5)


def test_two_branches_are_not_one_layer():
    model = made(timm.create_model, "crossvit_9_240")
    with pytest.raises(InputError, match="puts out 2 tensors"):
        describe_layers(model, ["blocks.0"], (240, 240))
    with pytest.raises(InputError, match=r"head\.0\.input"):
        describe_layers(model, ["penultimate"], (240, 240))
