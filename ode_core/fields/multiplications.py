"""How much an evaluation of a field computes, counted while it does."""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Multiplications(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it, multiplications of matrix products and convolutions are counted.

    torch's own ``FlopCounterMode`` watches modules, which fails where a field takes a gradient inside.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count it."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        operations = flop_registry.get(func._overloadpacket)
        if operations is not None:
            self.count += int(operations(*args, **kwargs, out_val=result)) // 2
        return result
