from core.network.optimiser import NAdam

import pytest
import torch


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


def test_the_state_has_the_names_and_shapes_of_torch_so_that_checkpoints_hold_it():
    parameter = torch.nn.Parameter(torch.ones(3, 4))
    states = []
    for optimiser in (NAdam([parameter], 0.001, 0.0), torch.optim.NAdam([parameter])):
        parameter.grad = torch.ones(3, 4)
        optimiser.step()
        states.append({name: value.shape for name, value in optimiser.state[parameter].items()})
    assert states[0] == states[1]
