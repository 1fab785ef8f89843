from core.network import batches, inference, networks
from core.network.ensemble import Ensemble

import numpy as np
import pytest
import torch

IMAGES = np.random.default_rng(1).integers(0, 256, (48, 32, 32, 1), dtype=np.uint8)


def test_probabilities_do_not_depend_on_what_else_is_in_the_batch():
    torch.manual_seed(1)
    ensemble = Ensemble([networks.Classifier("shufflenet_v2_x0_5", "linear", 32) for _ in range(2)])
    scores = inference.probabilities(ensemble, IMAGES, np.arange(10), torch.device("cpu"))
    alone = inference.probabilities(ensemble, IMAGES, np.array([7]), torch.device("cpu"))
    assert scores[7] == pytest.approx(alone[0], abs=1e-5)
    assert scores.shape == (10, 2) and ((scores > 0) & (scores < 1)).all()


def test_images_are_scored_in_smaller_batches_when_memory_runs_out():
    classifier = networks.Classifier("shufflenet_v2_x0_5", "linear", 32)
    loader = batches.ImageLoader(IMAGES, torch.device("cpu"))
    expected = inference.score(classifier, loader, np.arange(32), torch.no_grad())
    sizes = []

    def little_memory(module, args):
        sizes.append(len(args[0]))
        if len(args[0]) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory")

    classifier.register_forward_pre_hook(little_memory)
    logits = inference.score(classifier, loader, np.arange(32), torch.no_grad())
    assert torch.allclose(logits, expected, atol=1e-5) and max(sizes[-4:]) <= 10 < sizes[0]
    with pytest.raises(torch.OutOfMemoryError):
        classifier.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("all of it")))
        inference.score(classifier, loader, np.arange(32), torch.no_grad())
