"""The optimiser, computed to the same bytes on every processor."""

import math
from itertools import accumulate, compress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SMALL = 1 << 16  # tensors of fewer numbers are updated together, as calling an operation takes longer than computing it
CHUNK_SIZE = 1 << 16  # numbers of a large tensor that are updated together: they stay in the processor's cache


class NAdam(torch.optim.NAdam):
    """NAdam (Dozat 2016, Incorporating Nesterov momentum into Adam, ICLR workshop, algorithm 2), with decoupled weight
    decay.

    On a CPU, torch takes float32 roots with MKL, which rounds a fifth of them wrongly, in a way that depends on the
    processor. Here NumPy takes them with the processor's instruction, which rounds correctly. The small ones of
    ``parameters`` become parts of one vector there. As in torch, a parameter without gradient stays as it is. On a GPU,
    this is torch's own optimiser.
    """

    # Without torch's wrapper, which imports the compiler's front end: slow (core.network.vision).
    add_param_group = torch.optim.Optimizer.add_param_group.__wrapped__  # type: ignore[attr-defined]

    def __init__(self, parameters: list[nn.Parameter], lr: float, weight_decay: float) -> None:
        is_small = [parameter.device.type == "cpu" and parameter.numel() < SMALL for parameter in parameters]
        self.small = list(compress(parameters, is_small))
        self.vector = nn.Parameter(torch.zeros(sum(parameter.numel() for parameter in self.small)))
        self.gradient = torch.zeros_like(self.vector)
        self.places = self._parts(self.gradient)
        self.unused: list[bool] = []  # which small parameters have no gradient in this step
        for parameter, part in zip(self.small, self._parts(self.vector.detach()), strict=True):
            parameter.data = part.copy_(parameter.detach())
        updated = [self.vector] if self.small else []
        updated += [parameter for parameter, small in zip(parameters, is_small, strict=True) if not small]
        super().__init__(updated, lr=lr, weight_decay=weight_decay, decoupled_weight_decay=True)

    def _parts(self, vector: Tensor) -> list[Tensor]:
        """The part of ``vector`` for each small parameter, with its shape and memory layout."""
        starts = accumulate((parameter.numel() for parameter in self.small), initial=0)
        places = zip(self.small, starts, strict=False)
        return [vector.as_strided(parameter.size(), parameter.stride(), start) for parameter, start in places]

    def gather(self) -> list[Tensor]:
        """What is updated, after the gradients of the small parameters have moved into their vector's.

        Returns
        -------
        list of float32: on a CPU, first the vector (n,) of the small parameters, if any; then all others as they are
        """
        parameters: list[Tensor] = self.param_groups[0]["params"]
        gradients = [parameter.grad for parameter in self.small]
        if any(gradient is not None for gradient in gradients):
            zero = torch.zeros(())
            self.unused = [gradient is None for gradient in gradients]
            torch._foreach_copy_(self.places, [zero if gradient is None else gradient for gradient in gradients])
            self.vector.grad = self.gradient
            for parameter in self.small:
                parameter.grad = None
        return parameters

    def zero_grad(self, set_to_none: bool = True) -> None:
        for parameter in (*self.small, *self.param_groups[0]["params"]):
            parameter.grad = None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for parameter in self.gather():
            if parameter.is_cuda:
                return super().step()
            if parameter.grad is not None:
                self._update(parameter, parameter.grad, self.param_groups[0])
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
        # The corrections of the bias are moved from the root to the two factors.
        correction = math.sqrt(1 - beta2**step)
        if gradient.stride() != parameter.stride():
            gradient = torch.empty_like(parameter).copy_(gradient)
        changed = (parameter.detach(), state["exp_avg"], state["exp_avg_sq"]) if parameter is self.vector else ()
        unused = [part for tensor in changed for part in compress(self._parts(tensor), self.unused)]
        before = [part.clone() for part in unused]
        lines = [_line(tensor) for tensor in (parameter, gradient, state["exp_avg"], state["exp_avg_sq"])]
        for weights, slope, mean, square in zip(*(torch.split(line, CHUNK_SIZE) for line in lines), strict=True):
            mean.lerp_(slope, 1 - beta1)
            square.mul_(beta2).addcmul_(slope, slope, value=1 - beta2)
            root = torch.from_numpy(np.sqrt(square.numpy())).add_(group["eps"] * correction)
            weights.mul_(1 - lr * group["weight_decay"])
            weights.addcdiv_(slope, root, value=-lr * correction * (1 - mu) / (1 - product))
            weights.addcdiv_(mean, root, value=-lr * correction * mu_next / (1 - product * mu_next))
        for part, value in zip(unused, before, strict=True):
            part.copy_(value)


def _line(tensor: Tensor) -> Tensor:
    """The numbers of a tensor without gaps in the order of the memory."""
    return tensor.detach().as_strided((tensor.numel(),), (1,))
