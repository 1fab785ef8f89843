from core.network.optimiser import AT_ONCE, SMALL, NAdam

import pytest
import torch
from torch import nn


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_two_hundred_steps_agree_with_torch_in_float64_to_a_millionth(weight_decay):
    """With gradients over many orders of magnitude, some of them zero, and a learning rate that changes."""
    random = torch.Generator().manual_seed(1)
    first = torch.randn(1000, generator=random)
    scale = 10 ** (8 * torch.rand(1000, generator=random) - 6)
    mine = torch.nn.Parameter(first.clone())
    exact, plain = (torch.nn.Parameter(first.to(dtype, copy=True)) for dtype in (torch.float64, torch.float32))
    known = {"weight_decay": weight_decay, "decoupled_weight_decay": True}
    optimisers = [
        NAdam([mine], 0.001, weight_decay),
        *(torch.optim.NAdam([one], lr=0.001, **known) for one in (exact, plain)),
    ]
    for step in range(200):
        gradient = torch.randn(1000, generator=random) * scale * (torch.rand(1000, generator=random) > 0.1)
        for optimiser, parameter in zip(optimisers, (mine, exact, plain), strict=True):
            optimiser.param_groups[0]["lr"] = 0.001 if step < 100 else 0.0003
            parameter.grad = gradient.to(parameter.dtype)
            optimiser.step()
    mine, exact, plain = (one.detach().double() for one in (mine, exact, plain))
    for other in (exact, plain):
        assert float((mine - other).norm() / other.norm()) < 1e-6
        assert float(((mine - other).abs() / (other.abs() + 1e-3)).max()) < 1e-5
    assert float((mine - first).norm() / first.norm()) > 0.005


def network():
    """Layers of several sizes, one of them larger than what is updated at once."""
    torch.manual_seed(1)
    first = nn.Conv2d(1, 16, 5, bias=False), nn.BatchNorm2d(16), nn.SiLU(), nn.Conv2d(16, 24, 3)
    layers = [*first, nn.Flatten(), nn.Linear(2400, 60), nn.Linear(60, 1)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def test_small_and_large_parameters_of_a_network_agree_with_torch_in_float64():
    mine, exact = network(), network().double()
    assert mine[5].weight.numel() > AT_ONCE and mine[3].weight.numel() < SMALL
    known = {"lr": 0.001, "weight_decay": 0.1}
    other = torch.optim.NAdam(exact.parameters(), decoupled_weight_decay=True, **known)
    optimisers = NAdam(list(mine.parameters()), **known), other
    before = [value.clone() for value in mine.parameters()]
    for step in range(5):
        images = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(step))
        for model, optimiser in zip((mine, exact), optimisers, strict=True):
            optimiser.zero_grad()
            model(images.to(model[0].weight.dtype)).square().mean().backward()
            optimiser.step()
    for old, one, other in zip(before, mine.parameters(), exact.parameters(), strict=True):
        off = (one.detach() - other.detach()).norm() / other.detach().norm()
        assert float(off) < 1e-5 and not torch.equal(old, one)
    assert mine[3].weight.is_contiguous(memory_format=torch.channels_last)


def test_what_is_updated_has_all_gradients_and_a_second_step_does_not_use_them_again():
    model = network()
    optimiser = NAdam(list(model.parameters()), 0.001, 0.0)
    model(torch.rand(8, 1, 16, 16)).mean().backward()
    squares = sum(float(each.grad.square().sum()) for each in model.parameters())
    given = optimiser.gather()
    assert len(given) == 2 and sum(float(each.grad.square().sum()) for each in given) == pytest.approx(
        squares, rel=1e-5
    )
    assert all(one is other for one, other in zip(given, optimiser.gather(), strict=True))
    optimiser.step()
    optimiser.zero_grad()
    after = [each.clone() for each in model.parameters()]
    optimiser.step()
    assert all(torch.equal(one, other) for one, other in zip(after, model.parameters(), strict=True))


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
