"""The optimiser, computed to the same bytes on every processor."""

import math
from typing import Any

import torch
from torch import Tensor


class NAdam(torch.optim.NAdam):
    """NAdam (Dozat 2016, Incorporating Nesterov momentum into Adam, ICLR workshop, algorithm 2), with decoupled weight
    decay.

    On a CPU, torch takes float32 roots with MKL, which rounds a fifth of them wrongly, in a way that depends on the
    processor. Here a root is taken in float64 and then rounded. On a GPU, this is torch's own step.
    """

    def __init__(self, parameters: list[torch.nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, lr=lr, weight_decay=weight_decay, decoupled_weight_decay=True)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.is_cuda:
                    return super().step()
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return None

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        (beta1, beta2), lr, decay = group["betas"], group["lr"], group["momentum_decay"]
        state = self.state[parameter]
        if not state:  # the same names as in torch
            state |= {"step": torch.tensor(0.0), "mu_product": torch.tensor(1.0)}
            state |= {"exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
        state["step"] += 1
        step = state["step"].item()
        mu, mu_next = (beta1 * (1 - 0.5 * 0.96 ** (at * decay)) for at in (step, step + 1))
        state["mu_product"] *= mu
        product = state["mu_product"].item()
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        # The corrections of the bias are moved from the root to the two factors.
        correction = math.sqrt(1 - beta2**step)
        root = square.double().sqrt_().float().add_(group["eps"] * correction)
        parameter.mul_(1 - lr * group["weight_decay"])
        parameter.addcdiv_(gradient, root, value=-lr * correction * (1 - mu) / (1 - product))
        parameter.addcdiv_(mean, root, value=-lr * correction * mu_next / (1 - product * mu_next))
