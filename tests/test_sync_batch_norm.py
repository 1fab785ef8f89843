"""A network whose batch normalisation uses all ranks is the same network: of every family with batch normalisation."""

from core.network import networks
from core.pipeline.errors import PipelineError

import pytest
import torch
from torch import nn

# The smallest network of each family: a module of the library that builds networks with batch normalisation. Left out
# are those that Classifier refuses because they have two heads.
QUICK = (
    "densenet121", "efficientnet_b0", "googlenet", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf",
    "regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5", "timm/cspnext_tiny", "timm/efficientvit_m0",
    "timm/ghostnet_050", "timm/lcnet_050", "timm/mobilenetv3_small_050", "timm/mobilevit_xxs", "timm/regnetx_002",
    "timm/regnety_002", "timm/repghostnet_050", "timm/starnet_s050", "timm/test_coatnet", "timm/test_resnet",
    "timm/tf_efficientnet_lite0", "timm/tinynet_d", "timm/xcit_nano_12_p8_224",
)  # fmt: skip
REST = (
    "efficientnet_v2_s", "inception_v3", "maxvit_t", "resnext50_32x4d", "vgg11_bn", "wide_resnet50_2",
    "timm/convmixer_768_32", "timm/cpubone_nano", "timm/cs3darknet_focus_s", "timm/densenet121", "timm/dla34",
    "timm/dpn68",
    "timm/efficientvit_b0", "timm/ese_vovnet19b_slim_dw", "timm/fasternet_t0", "timm/fastvit_t8", "timm/halonet_h1",
    "timm/hardcorenas_b", "timm/hgnetv2_b0", "timm/hrnet_w18_small", "timm/iformer_t", "timm/inception_next_atto",
    "timm/inception_resnet_v2", "timm/inception_v3", "timm/inception_v4", "timm/lcnetv2_small",
    "timm/legacy_seresnet18", "timm/legacy_xception", "timm/lowformer_b0", "timm/mobileone_s1",
    "timm/nextvit_small", "timm/pnasnet5large", "timm/res2next50", "timm/resnest14d",
    "timm/resnetv2_18", "timm/rexnet_100", "timm/selecsls42", "timm/shvit_s1", "timm/skresnet18",
    "timm/tf_efficientnetv2_s", "timm/tiny_vit_5m_224", "timm/tresnet_m", "timm/vgg11_bn",
    "timm/visformer_tiny", "timm/xception41p",
)  # fmt: skip


def classifier(backbone):
    """With statistics and factors that hide no layer: by default, some residual branches are multiplied by 0."""
    for side in (64, 128, 224, 256):
        torch.manual_seed(1)
        try:
            network = networks.Classifier(backbone, "linear", side)
            break
        except PipelineError as error:
            if side == 256 or "can't take" not in str(error):
                raise
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            module.momentum = 1.0  # take the statistics of the images below
    images = torch.rand(3, 3, side, side)
    with torch.no_grad():
        network.train()(images)
    return network.eval(), images


def check(backbone):
    network, images = classifier(backbone)
    with torch.inference_mode():
        expected = network(images)
        converted = networks.sync_batch_norm(network)
        logits = converted(images)
    norms = [layer for layer in converted.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    assert norms and all(isinstance(layer, nn.SyncBatchNorm) for layer in norms)
    assert torch.isfinite(expected).all() and expected[0] != expected[1]
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backbone", QUICK)
def test_the_converted_network_gives_the_same_logits(backbone):
    check(backbone)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("backbone", REST)
def test_the_converted_network_of_each_other_family_gives_the_same_logits(backbone):
    check(backbone)
