"""Linear layers with weights in 8-bit integers, for generation on the CPU."""

import torch
from torch import Tensor, nn

from promptstage.lightning_modules.backbone.boundary import failure
from promptstage.lightning_modules.backbone.comparison import check_finite
from promptstage.lightning_modules.backbone.frozen import FrozenModel
from promptstage.lightning_modules.backbone.linear_layers import never_called
from promptstage.lightning_modules.functional.int8 import int8_linear, products_are_exact, quantize_rows
from promptstage.utilities.errors import UserError


class Int8Linear(nn.Module):
    """Linear layer with weights of 8 bits, and activations that are quantized row by row.

    Attributes:
        integers: (out, in) int8.
        scales: (out,) float32, the scale of each row.
        bias: (out,) float32 or None.
    """

    integers: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        """
        Args:
            linear: the layer to quantize.
        """
        super().__init__()
        integers, scales = quantize_rows(linear.weight.detach().float())
        self.register_buffer("integers", integers)
        self.register_buffer("scales", scales[:, 0])
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().float())

    def forward(self, states: Tensor) -> Tensor:
        """Compute (..., out) from states (..., in).

        Raises:
            UserError: if a gradient would be needed: rounding has none.
        """
        if states.requires_grad and torch.is_grad_enabled():
            raise UserError(
                "a backbone with backbone.quantization int8 has no gradients: it can only generate"
            )
        return int8_linear(states, self.integers, self.scales, self.bias)


def quantize_linears(backbone: FrozenModel) -> None:
    """Replace the linear layers of the decoder blocks and the output matrix by :class:`Int8Linear`.

    Embeddings, norms, attention itself, routers, and matrices that are no ``nn.Linear``, such as those of
    experts, stay as they are.

    Raises:
        UserError: if there are no linear layers, the model's code uses their weights in other ways, or this
            machine's products of 8-bit integers are not exact.
    """
    problem = None if products_are_exact() else "products of 8-bit integers are not exact on this CPU"
    blocks, others = nn.ModuleList(backbone.layers), never_called(backbone)
    linears = [
        (name, module)
        for name, module in blocks.named_modules()
        if type(module) is nn.Linear and name not in others
    ]
    if not linears:
        problem = f"its blocks have no linear layers of {nn.Linear.__module__}.{nn.Linear.__name__}"
    if problem is None:
        for name, module in linears:
            parent, _, child = name.rpartition(".")
            setattr(blocks.get_submodule(parent), child, Int8Linear(module))
        head = backbone.model.get_output_embeddings()
        if type(head) is nn.Linear:
            backbone.model.set_output_embeddings(Int8Linear(head))
        try:
            with torch.no_grad():
                check_finite(backbone(torch.zeros(1, 2, dtype=torch.int64)))
        except Exception as error:
            problem = failure("quantized weights", error)
    if problem is not None:
        raise UserError(
            f"backbone '{backbone.config.name}' cannot be quantized: {problem}; backbone.quantization must "
            "be none, got int8"
        )
