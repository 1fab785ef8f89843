from core.network.optimiser import CHUNK_SIZE, SMALL, NAdam

import pytest
import torch
from torch import nn


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_two_hundred_steps_agree_with_torch_in_float64_to_a_millionth(weight_decay):
    """With gradients over many orders of magnitude, some of them zero, and a learning rate that changes."""
    random = torch.Generator().manual_seed(1)
    first = torch.randn(1000, generator=random)
    scale = 10 ** (8 * torch.rand(1000, generator=random) - 6)
    ours = torch.nn.Parameter(first.clone())
    exact, plain = (torch.nn.Parameter(first.to(dtype, copy=True)) for dtype in (torch.float64, torch.float32))
    options = {"weight_decay": weight_decay, "decoupled_weight_decay": True}
    optimisers = [
        NAdam([ours], 0.001, weight_decay),
        *(torch.optim.NAdam([parameter], lr=0.001, **options) for parameter in (exact, plain)),
    ]
    for step in range(200):
        gradient = torch.randn(1000, generator=random) * scale * (torch.rand(1000, generator=random) > 0.1)
        for optimiser, parameter in zip(optimisers, (ours, exact, plain), strict=True):
            optimiser.param_groups[0]["lr"] = 0.001 if step < 100 else 0.0003
            parameter.grad = gradient.to(parameter.dtype)
            optimiser.step()
    ours, exact, plain = (parameter.detach().double() for parameter in (ours, exact, plain))
    for other in (exact, plain):
        assert float((ours - other).norm() / other.norm()) < 1e-6
        assert float(((ours - other).abs() / (other.abs() + 1e-3)).max()) < 1e-5
    assert float((ours - first).norm() / first.norm()) > 0.005


def network():
    """Layers of several sizes, one of them larger than what is updated at once."""
    torch.manual_seed(1)
    first = nn.Conv2d(1, 16, 5, bias=False), nn.BatchNorm2d(16), nn.SiLU(), nn.Conv2d(16, 24, 3)
    layers = [*first, nn.Flatten(), nn.Linear(2400, 60), nn.Linear(60, 1)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def test_small_and_large_parameters_of_a_network_agree_with_torch_in_float64():
    ours, exact = network(), network().double()
    assert ours[5].weight.numel() > CHUNK_SIZE and ours[3].weight.numel() < SMALL
    options = {"lr": 0.001, "weight_decay": 0.1}
    other = torch.optim.NAdam(exact.parameters(), decoupled_weight_decay=True, **options)
    optimisers = NAdam(list(ours.parameters()), **options), other
    before = [value.clone() for value in ours.parameters()]
    for step in range(5):
        images = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(step))
        for model, optimiser in zip((ours, exact), optimisers, strict=True):
            optimiser.zero_grad()
            model(images.to(model[0].weight.dtype)).square().mean().backward()
            optimiser.step()
    for old, new, expected in zip(before, ours.parameters(), exact.parameters(), strict=True):
        error = (new.detach() - expected.detach()).norm() / expected.detach().norm()
        assert float(error) < 1e-5 and not torch.equal(old, new)
    assert ours[3].weight.is_contiguous(memory_format=torch.channels_last)


def test_what_is_updated_has_all_gradients_and_a_second_step_does_not_use_them_again():
    model = network()
    optimiser = NAdam(list(model.parameters()), 0.001, 0.0)
    model(torch.rand(8, 1, 16, 16)).mean().backward()
    squares = sum(float(parameter.grad.square().sum()) for parameter in model.parameters())
    gathered = optimiser.gather()
    assert len(gathered) == 2
    assert sum(float(tensor.grad.square().sum()) for tensor in gathered) == pytest.approx(squares, rel=1e-5)
    assert all(tensor is again for tensor, again in zip(gathered, optimiser.gather(), strict=True))
    optimiser.step()
    optimiser.zero_grad()
    after = [parameter.clone() for parameter in model.parameters()]
    optimiser.step()
    assert all(torch.equal(old, new) for old, new in zip(after, model.parameters(), strict=True))


def test_a_parameter_without_gradient_stays_as_it_is():
    used, unused = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    optimiser = NAdam([used, unused], 0.1, 0.0)
    for _ in range(3):
        optimiser.zero_grad()
        used.sum().backward()
        optimiser.step()
    assert torch.equal(unused, torch.ones(2)) and not torch.equal(used, torch.ones(3))


def test_the_state_has_the_names_and_shapes_of_torch_so_that_checkpoints_hold_it():
    parameter = torch.nn.Parameter(torch.ones(12))
    states = []
    for optimiser in (NAdam([parameter], 0.001, 0.0), torch.optim.NAdam([parameter])):
        parameter.grad = torch.ones(12)
        optimiser.step()
        states.append({name: value.shape for state in optimiser.state.values() for name, value in state.items()})
    assert states[0] == states[1]


def test_a_parameter_without_gradient_keeps_its_value_under_weight_decay_as_in_torch():
    """A head that is not used, among parameters that are updated together with it: torch leaves it alone."""
    first = [torch.randn(4, 3, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    sets = [[nn.Parameter(values.clone()) for values in first] for _ in range(2)]
    ours = NAdam(sets[0], 0.01, 0.01)
    torchs = torch.optim.NAdam(sets[1], lr=0.01, weight_decay=0.01, decoupled_weight_decay=True)
    for _ in range(20):
        for optimiser, (used, _, also_used) in zip((ours, torchs), sets, strict=True):
            optimiser.zero_grad()
            (used.square().sum() + also_used.sum()).backward()
            optimiser.step()
    for values, value, expected in zip(first, *sets, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(value, values) is (values is first[1])


def test_a_parameter_whose_gradients_end_stops_as_in_torch():
    sets = [[nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))] for _ in range(2)]
    ours = NAdam(sets[0], 0.01, 0.01)
    torchs = torch.optim.NAdam(sets[1], lr=0.01, weight_decay=0.01, decoupled_weight_decay=True)
    for step in range(10):
        for optimiser, (used, until_five) in zip((ours, torchs), sets, strict=True):
            optimiser.zero_grad()
            (used.sum() + (until_five.sum() if step < 5 else 0)).backward()
            optimiser.step()
    for value, expected in zip(*sets, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
