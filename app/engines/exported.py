"""A torch module as a program that other engines read."""

from typing import TYPE_CHECKING, Any

from app.towers import Inputs

if TYPE_CHECKING:
    import torch


def exported_program(module: "torch.nn.Module", sample: Inputs, any_length: bool) -> Any:
    """The torch.export.ExportedProgram of a module, which takes the arrays of `sample` by position.

    `sample` is a batch of two items; any number of items is taken, and with `any_length` any number of tokens
    or tiles.
    """
    import torch

    names, tensors = list(sample), tuple(torch.from_numpy(array) for array in sample.values())

    class ByPosition(torch.nn.Module):
        """Export does not take a module whose inputs are only known by name."""

        def __init__(self) -> None:
            super().__init__()
            self.module = module.eval()

        def forward(self, *arrays: torch.Tensor) -> torch.Tensor:
            vectors: torch.Tensor = self.module(**dict(zip(names, arrays, strict=True)))
            return vectors

    # DYNAMIC: torch finds the bounds, and fails where an axis would be fixed.
    free = torch.export.Dim.DYNAMIC
    dynamic = tuple({0: free, 1: free} if any_length else {0: free} for _ in names)
    with torch.no_grad():
        return torch.export.export(ByPosition(), tensors, dynamic_shapes=(dynamic,), strict=False)
