"""timm's families, one or two of each at their smallest: right, or refused with a reason; none silently
wrong.
"""

import pytest
import timm
import torch

from probecache.extract.backbone.features import Features, plan_features
from probecache.extract.backbone.layers import block_names, describe_layers
from probecache.store.errors import InputError

# By family: a model, and why its penultimate layer is refused, '' where it is right.
TWO_HEADS = "may be a classifier of another kind"
FAMILIES = {
    "test_vit": "",
    "deit_tiny_distilled_patch16_224": TWO_HEADS,
    "deit3_small_patch16_224": "",
    "botnet26t_256": "",
    "test_byobnet": "",
    "coat_lite_tiny": "",
    "convit_tiny": "",
    "test_convnext": "",
    "cpubone_nano": "",
    "crossvit_9_240": TWO_HEADS,
    "csatv2": "",
    "darknet17": "",
    "cspnext_tiny": "",
    "davit_tiny": "",
    "densenet121": "",
    "dla34": "",
    "dpn48b": "",
    "edgenext_xx_small": "",
    "efficientformer_l1": "",
    "efficientformerv2_s0": "",
    "test_efficientnet": "",
    "efficientvim_m1": TWO_HEADS,
    "efficientvit_b0": "",
    "efficientvit_m0": "",
    "eva02_tiny_patch14_224": "",
    "fasternet_t0": "",
    "fastvit_t8": "",
    "focalnet_tiny_srf": "",
    "gcvit_xxtiny": "",
    "ghostnet_050": "",
    "hardcorenas_a": "",
    "hgnetv2_b0": "",
    "hiera_tiny_224": "",
    "sam2_hiera_tiny": "",
    "hrnet_w18_small": "",
    "iformer_t": "",
    "inception_next_atto": "",
    "lcnetv2_small": "",
    "levit_128s": "",
    "lowformer_b0": "",
    "test_mambaout": "",
    "test_maxvit": "",
    "test_coatnet": "",
    "caformer_s18": "",
    "poolformer_s12": "",
    "gmlp_ti16_224": "",
    "mixer_s32_224": "",
    "resmlp_12_224": "",
    "mobilenetv3_small_050": "",
    "mobilevit_xxs": "",
    "mvitv2_tiny": "",
    "naflexvit_base_patch16_gap": "",
    "nest_tiny": "",
    "nextvit_small": "",
    "test_nfnet": "",
    "pit_ti_224": "",
    "pit_ti_distilled_224": TWO_HEADS,
    "pvt_v2_b0": "",
    "rdnet_tiny": "",
    "regnetx_002": "",
    "repghostnet_050": "",
    "repvit_m0_9": "",
    "resnest14d": "",
    "test_resnet": "",
    "resnetv2_18": "",
    "rexnet_100": "",
    "selecsls42": "",
    "legacy_seresnet18": "",
    "sequencer2d_s": "",
    "shvit_s1": "",
    "skresnet18": "",
    "starnet_s050": "",
    "swiftformer_xs": "",
    "swin_tiny_patch4_window7_224": "",
    "swinv2_cr_tiny_224": "",
    "tiny_vit_5m_224": "",
    "tnt_s_patch16_224": "",
    "tresnet_m": "",
    "twins_svt_small": "",
    "visformer_tiny": "",
    "vit_small_r26_s32_224": "",
    "test_vit_relpos": "",
    "vit_small_patch16_dinov3": "",
    "volo_d1_224": TWO_HEADS,
    "ese_vovnet19b_dw": "",
    "xception41": "",
    "legacy_xception": "",
    "xcit_nano_12_p16_224": "",
    "vitamin_small_224": "",
    "samvit_base_patch16_224": "",
    "mobilenetv5_base": "",
    "qwen3_vit_88m": "",
}
# Tokens before the patches that are known of models whose blocks give sequences.
PREFIX = {
    "test_vit": 1,
    "deit_tiny_distilled_patch16_224": 2,
    "deit3_small_patch16_224": 1,
    "coat_lite_tiny": 1,
    "convit_tiny": 1,
    "eva02_tiny_patch14_224": 1,
    "naflexvit_base_patch16_gap": 4,
    "pit_ti_224": 1,
    "pit_ti_distilled_224": 2,
    "vit_small_r26_s32_224": 1,
    "vit_small_patch16_dinov3": 5,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_right_or_refused(name):
    if not timm.is_model(name):
        pytest.skip(f"timm {timm.__version__} has no {name}")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name).eval()
    config = model.pretrained_cfg
    size = config["input_size"][-1] if config.get("fixed_input_size") else min(config["input_size"][-1], 128)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(5))
    last = block_names(model)[-1]
    layers = describe_layers(model, [last], (size, size), strict=False)
    if layers and layers[0].layout.kind == "tokens":
        assert layers[0].layout.prefix == PREFIX.get(name, 0)
    if FAMILIES[name]:
        with pytest.raises(InputError, match=FAMILIES[name]):
            describe_layers(model, ["penultimate"], (size, size))
        return
    (layer,) = describe_layers(model, ["penultimate"], (size, size))
    module = Features(model, plan_features([layer], ["none"]), (0.0,) * 3, (1.0,) * 3, torch.float32)
    with torch.no_grad():
        (found,) = module(images)
        module.close()
        # Fed through the rest it gives the output: by the classifier's own forward, or the mean of two.
        heads = model.get_classifier()
        heads = [model.get_submodule(layer.module)] if not isinstance(heads, tuple) else list(heads)
        given = found.reshape(2, *layer.layout.shape)
        output = torch.stack([head(given).flatten(1) for head in heads]).mean(0)
        assert torch.allclose(output, model(images), rtol=1e-4, atol=1e-5)
