"""Whatever a model's forward or backward pass raises, in one line that names the layer in which it happened."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from dpib.errors import UserError


@contextmanager
def blamed(model: nn.Module) -> Iterator[None]:
    """Name the layer in what the block raises: the one at work, or in the backward pass the last one reached.

    Raises:
        UserError: for any exception of the block.
    """
    names = {module: name or "the model" for name, module in model.named_modules()}
    entered: list[nn.Module] = []
    reached = [model]
    watched: dict[int, Tensor] = {}

    def watch(tensor: Any, module: nn.Module) -> None:
        """Note that `module` is at work once the backward pass has the gradient of `tensor`; the first word holds."""
        if isinstance(tensor, Tensor) and tensor.requires_grad and id(tensor) not in watched:
            watched[id(tensor)] = tensor
            tensor.register_hook(lambda _: reached.append(module))

    def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if module in names:
            for tensor in inputs:
                watch(tensor, entered[-1] if entered else model)
            entered.append(module)

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        if module in names:
            entered.pop()
            watch(output, module)

    with ExitStack() as hooks:
        for handle in (register_module_forward_pre_hook(enter), register_module_forward_hook(leave)):
            hooks.callback(handle.remove)
        try:
            yield
        except Exception as error:
            at = (entered or reached)[-1]
            raise UserError(
                f"{names[at]} is {type(at).__name__}, which has no gradient record by record ({first_line(error)}): "
                "replace it or call it otherwise"
            ) from error


def first_line(error: Exception) -> str:
    """Return the first line of what an exception says, or its kind where it says nothing."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
