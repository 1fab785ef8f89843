import json

from core.network import ensemble, inference, networks
from core.network.ensemble import Ensemble
from core.pipeline.errors import PipelineError

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.special import expit, logit


def small(count):
    torch.manual_seed(1)
    return Ensemble([networks.Classifier("shufflenet_v2_x0_5", "linear", 32) for _ in range(count)]).eval()


def test_the_logit_is_that_of_the_mean_probability_and_never_infinite():
    logits = np.array([[0.3, -2.0, 1.5], [4.0, 4.0, 4.0], [90.0, 95.0, 99.0], [-500.0, 0.0, 500.0]])
    expected = logit(expit(logits[:2]).mean(axis=1))
    means = ensemble.mean_logit(torch.tensor(logits)).numpy()
    assert means[:2] == pytest.approx(expected)
    assert 90 < means[2] < 99 and means[3] == pytest.approx(0, abs=1e-6)
    alone = torch.tensor([[0.123], [-7.5]])
    assert torch.equal(ensemble.mean_logit(alone), alone[:, 0])


def test_the_forward_of_an_ensemble_is_the_mean_of_its_members_probabilities():
    images = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8)
    model = small(3)
    with torch.no_grad():
        members = torch.stack([torch.sigmoid(member(images)) for member in model.members])
        assert torch.allclose(torch.sigmoid(model(images)), members.mean(0), atol=1e-6)
        assert torch.allclose(torch.sigmoid(model.member_logits(images)).T, members)


def test_the_features_of_an_ensemble_are_those_of_each_member_and_counted_by_view():
    model, images = small(2), np.random.RandomState(0).randint(256, size=(4, 32, 32, 3)).astype(np.uint8)
    by_member, features = inference.features(model, images, np.arange(4), torch.device("cpu"))
    batch = torch.from_numpy(images).permute(0, 3, 1, 2)
    with torch.no_grad():
        alone = [member.with_features(batch) for member in model.members]
    assert by_member.shape == (4, 2) and np.allclose(
        by_member, torch.sigmoid(torch.stack([output[:, 0] for output in alone], 1))
    )
    assert np.allclose(features, torch.cat([output[:, 1:] for output in alone], 1), atol=1e-5)
    views = model.views(features.shape[1])
    assert len(views) == 4 and sum(views) == features.shape[1] and views[:2] == views[2:]


def test_models_that_do_not_fit_their_description_are_refused(tmp_path):
    path, saved = tmp_path / "model.safetensors", small(2)
    save_file(saved.contents(), path)
    description = json.loads(json.dumps(saved.description))
    assert torch.equal(ensemble.load_ensemble(path, description).members[1].head.weight, saved.members[1].head.weight)
    without = {name: value for name, value in description.items() if name != "members"}  # from before there were any
    for other in (description | {"head": "selu"}, description | {"members": 3}, without):
        with pytest.raises(PipelineError, match=r"does not fit its model\.json"):
            ensemble.load_ensemble(path, other)


def test_a_training_starts_from_the_first_member_of_an_ensemble(tmp_path):
    saved = small(2)
    save_file(saved.contents(), tmp_path / "model.safetensors")
    classifier = networks.build("shufflenet_v2_x0_5", "linear", 32, "model.safetensors", tmp_path)
    assert torch.equal(classifier.head.weight, saved.members[0].head.weight)


@pytest.mark.parametrize(("tta", "turns"), [("hflip", 2), ("flips", 4), ("d4", 8)])
def test_tta_gives_all_symmetries_of_an_image_the_same_probability_which_is_their_mean(tta, turns):
    image = np.random.RandomState(0).randint(256, size=(32, 32, 3)).astype(np.uint8)
    mirrored = [image, image[:, ::-1]]
    symmetric = mirrored if turns == 2 else [np.rot90(side, k) for side in mirrored for k in range(0, 4, 8 // turns)]
    images, rows, cpu = np.ascontiguousarray(symmetric), np.arange(turns), torch.device("cpu")
    plain = small(2)
    for member in plain.members:
        torch.nn.init.normal_(member.head.weight, std=10)
        for layer in member.modules():  # so that the maps of an untrained network are not close to zero
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.running_var.fill_(0.3)
    expected, features = inference.features(plain, images, rows, cpu)
    probabilities, same = inference.features(Ensemble([*plain.members], tta), images, rows, cpu)
    assert np.ptp(expected, axis=0).min() > 1e-4
    assert probabilities == pytest.approx(np.tile(expected.mean(axis=0), (turns, 1)), abs=1e-6)
    assert np.array_equal(same, features)
