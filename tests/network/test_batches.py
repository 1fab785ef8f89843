from core.network import batches
from core.pipeline.errors import PipelineError
from core.pipeline.schemas.train import Augment

import numpy as np
import pytest
import torch

# Each orientation of it differs from the seven others.
MARKED = torch.arange(16, dtype=torch.float32).view(1, 1, 4, 4) / 16


def rules(**changes):
    return Augment(**(dict.fromkeys(Augment.model_fields, 0.0) | {"geometry": "none"} | changes))


def random(seed=1):
    return torch.Generator().manual_seed(seed)


def orientations(images):
    return {image.numpy().tobytes() for image in images}


def test_batches_stream_in_order_with_channels_first():
    images = np.random.default_rng(1).integers(0, 256, (10, 4, 5, 3), dtype=np.uint8)
    rows = [np.array([3, 1]), np.array([9]), np.array([0, 2, 4]), np.array([5])]
    streamed = list(batches.ImageLoader(images, torch.device("cpu")).stream(rows))
    assert [tuple(batch.shape) for batch in streamed] == [(2, 3, 4, 5), (1, 3, 4, 5), (3, 3, 4, 5), (1, 3, 4, 5)]
    for batch, numbers in zip(streamed, rows, strict=True):
        assert np.array_equal(batch.numpy(), images[numbers].transpose(0, 3, 1, 2))


def test_a_memory_map_streams_like_an_array_wherever_its_images_lie(tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (40, 50, 50, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    for part in (mapped, mapped[5:]):
        rows = np.array_split(np.random.default_rng(2).permutation(len(part)), 12)
        streamed = list(batches.ImageLoader(part, torch.device("cpu")).stream(rows))
        assert np.array_equal(torch.cat(streamed).numpy(), np.array(part)[np.concatenate(rows)].transpose(0, 3, 1, 2))


def test_the_disk_is_asked_for_each_image_once_and_before_it_is_read(tmp_path, monkeypatch):
    np.save(tmp_path / "images.npy", np.zeros((40, 8, 8, 1), np.uint8))
    calls = []
    loader, advise, read = batches.ImageLoader, batches.ImageLoader._advise_readahead, batches.ImageLoader._read
    monkeypatch.setattr(
        loader, "_advise_readahead", lambda self, rows: calls.append(("advise", rows[0])) or advise(self, rows)
    )
    monkeypatch.setattr(loader, "_read", lambda self, rows: calls.append(("read", rows[0])) or read(self, rows))
    rows = [np.array([number]) for number in range(40)]
    for _ in loader(np.load(tmp_path / "images.npy", mmap_mode="r"), torch.device("cpu")).stream(rows):
        pass
    advised = [row for call, row in calls if call == "advise"]
    assert advised == list(range(2, 40)) and [row for call, row in calls if call == "read"] == list(range(40))
    assert all(calls.index(("advise", row)) < calls.index(("read", row)) for row in advised)


@pytest.mark.parametrize(("count", "sizes"), [(8, [4, 4]), (9, [4, 5]), (10, [4, 4, 2]), (3, [3]), (1, [1])])
def test_a_lone_last_image_joins_the_batch_before_it(count, sizes):
    rows = batches.make_batches(np.arange(count), 4)
    assert [len(batch) for batch in rows] == sizes
    assert np.array_equal(np.concatenate(rows), np.arange(count))


def test_no_augmentation_changes_nothing_but_the_scale():
    images = torch.randint(256, (3, 1, 4, 4), dtype=torch.uint8)
    assert torch.equal(batches.augment(images, rules(), random()), images.float() / 255)


def test_hflip_gives_two_orientations_flips_four_and_d4_the_eight_of_a_square():
    many = MARKED.expand(400, -1, -1, -1)
    square = [torch.rot90(image, turns, (2, 3)) for image in (MARKED, MARKED.flip(3)) for turns in range(4)]
    assert len(orientations(torch.cat(square))) == 8
    assert orientations(batches.augment(many, rules(geometry="d4"), random())) == orientations(torch.cat(square))
    flips = torch.cat([MARKED, MARKED.flip(2), MARKED.flip(3), MARKED.flip(2, 3)])
    assert orientations(batches.augment(many, rules(geometry="flips"), random())) == orientations(flips)
    hflips = torch.cat([MARKED, MARKED.flip(3)])
    assert orientations(batches.augment(many, rules(geometry="hflip"), random())) == orientations(hflips)


def test_brightness_and_contrast_change_each_image_within_their_strength():
    images = torch.rand(500, 1, 4, 4) * 0.4 + 0.3
    brighter = batches.augment(images, rules(brightness=0.2), random()).mean(dim=(1, 2, 3)) / images.mean(dim=(1, 2, 3))
    assert 0.8 <= brighter.min() < 0.83 and 1.17 < brighter.max() <= 1.2001
    stronger = batches.augment(images, rules(contrast=0.2), random())
    spread = stronger.std(dim=(1, 2, 3)) / images.std(dim=(1, 2, 3))
    assert 0.8 - 1e-4 <= spread.min() < 0.83 and 1.17 < spread.max() <= 1.2001
    assert torch.allclose(stronger.mean(dim=(1, 2, 3)), images.mean(dim=(1, 2, 3)), atol=1e-5)


def test_stain_jitter_scales_the_amount_of_each_stain():
    """An image of haematoxylin alone, by the law of Beer and Lambert, must become another amount of it alone."""
    haematoxylin = np.array([0.65, 0.70, 0.29])
    haematoxylin /= np.linalg.norm(haematoxylin)
    image = torch.tensor(np.exp(-0.8 * haematoxylin), dtype=torch.float32).view(1, 3, 1, 1).expand(300, 3, 2, 2)
    amounts = -torch.log(batches.augment(image, rules(stain=0.3), random()))[:, :, 0, 0].numpy() @ haematoxylin
    assert 0.8 * 0.7 - 1e-3 <= amounts.min() < 0.8 * 0.75 and 0.8 * 1.25 < amounts.max() <= 0.8 * 1.3 + 1e-3
    jittered = np.exp(-amounts[:, None] * haematoxylin)
    assert np.allclose(jittered, batches.augment(image, rules(stain=0.3), random())[:, :, 0, 0].numpy(), atol=1e-3)


def test_stain_jitter_of_grey_images_is_refused():
    with pytest.raises(PipelineError, match=r"train\.augment\.stain is for colour images"):
        batches.augment(torch.zeros(1, 1, 4, 4), rules(stain=0.1), random())


def test_the_same_generator_gives_the_same_images():
    images = torch.rand(8, 3, 4, 4)
    every = rules(geometry="d4", brightness=0.1, contrast=0.1, stain=0.1)
    assert torch.equal(batches.augment(images, every, random(1)), batches.augment(images, every, random(1)))
    assert not torch.equal(batches.augment(images, every, random(1)), batches.augment(images, every, random(2)))
