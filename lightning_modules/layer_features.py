"""Features of a backbone's layers for a probe set, gathered over ranks."""

import lightning as L
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from promptstage.datamodules.loaders import EvaluationLoader
from promptstage.lightning_modules.backbone.layer_states import pooled_outputs
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.distribution import share_backbone
from promptstage.lightning_modules.stages import StageSearch
from promptstage.utilities.errors import UserError
from promptstage.utilities.progress import plain_bar


class LayerFeatures(Metric):
    """Feature rows of all layers, gathered over batches and ranks, in the order of their ids.

    :meth:`compute` returns the same rows in the same order for any batches and number of ranks, so that
    similarities are bit-identical. A rank without rows must update with an empty tensor (L, 0, d): gathered
    tensors must have the same number of dimensions on all ranks.
    """

    full_state_update = False
    rows: list[Tensor]
    ids: list[Tensor]

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.add_state("rows", [], dist_reduce_fx="cat")
        self.add_state("ids", [], dist_reduce_fx="cat")

    def update(self, features: Tensor, ids: Tensor) -> None:
        """
        Args:
            features: (L, b, d), float.
            ids: (b,) int64: the example that each row belongs to. All rows of an example must come in one
                update.
        """
        self.rows.append(features.transpose(0, 1))
        self.ids.append(ids)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return features (L, n, d) and ids (n,), ascending, for n > 1 (torchmetrics makes one row scalars).

        Raises:
            ValueError: if there was no update.
        """
        if not len(self.ids) or not len(ids := dim_zero_cat(self.ids)):
            raise ValueError("no features to compare: update() was never called")
        rows = dim_zero_cat(self.rows)
        order = torch.argsort(ids.long(), stable=True)
        return rows[order].transpose(0, 1), ids.long()[order]


@torch.no_grad()
def probe_features(
    trainer: L.Trainer, backbone: Backbone, loader: EvaluationLoader, search: StageSearch
) -> tuple[Tensor, Tensor]:
    """Compute the features of all ranks' probe examples.

    Args:
        loader: this rank's batches of the probe set.

    Returns:
        Features (L, n, d) on the CPU, and each row's example (n,).

    Raises:
        UserError: if an example has no token after its first, or a layer's output is not finite.
    """
    device = trainer.strategy.root_device
    share_backbone(backbone, trainer)
    backbone.to(device)
    metric = LayerFeatures().to(device)
    # A rank without a batch must gather rows of the same shape.
    dtype = torch.promote_types(backbone.dtype, torch.float32)
    metric.update(
        torch.empty(backbone.num_layers, 0, backbone.hidden_size, dtype=dtype, device=device),
        torch.empty(0, dtype=torch.int64, device=device),
    )
    with plain_bar(trainer, "Probe set", len(loader.rows), "examples") as bar:
        for numbers, batch in zip(loader.batches, loader, strict=True):
            gold = batch.gold.to(device)
            ends = gold.rationale[:, 1 if search.rationales else 0]
            if (ends < 2).any():
                name = batch.examples[int(ends.argmin())].id
                raise UserError(f"probe example {name} has no token after its first: use a longer template")
            backbone.shards.begin_pass()
            features, rows = pooled_outputs(backbone, gold.input_ids, ends, search.pooling == "token")
            metric.update(features, torch.tensor(numbers, device=device)[rows])
            bar.update(len(numbers) * trainer.world_size)
    backbone.shards.join_remaining_passes()
    features, examples = (part.cpu() for part in metric.compute())
    not_finite = (~features.isfinite()).any(-1).nonzero()
    if len(not_finite):
        layer, row = not_finite[0].tolist()
        name = loader.rows[int(examples[row])].example.id
        raise UserError(
            f"the output of layer {layer} of backbone '{backbone.config.name}' is not finite for probe "
            f"example {name}: use another backbone dtype than {backbone.config.dtype}"
        )
    return features, examples
