"""Divergence of a student's predictions from a teacher's, both of one frozen backbone."""

import torch
from torch import Tensor

from promptstage.lightning_modules.backbone.frozen import FrozenModel, LabeledPass
from promptstage.lightning_modules.functional.divergence import head_divergence


def label_divergences(backbone: FrozenModel, student: LabeledPass, teacher: LabeledPass) -> Tensor:
    """Compute KL(teacher ‖ student) over the vocabulary at each label, with gradients of the student.

    Args:
        student: pass from :meth:`FrozenModel.labeled`, with the prefix that is trained.
        teacher: pass with the same labels.

    Returns:
        (N,) in nats, float32 or better.
    """
    if backbone.has_linear_head:
        with torch.no_grad():
            expected = backbone.body(**teacher.arguments).last_hidden_state[0, teacher.predictors]
        with backbone.recomputing():
            hidden = backbone.body(**student.arguments).last_hidden_state[0, student.predictors]
        head = backbone.model.get_output_embeddings()
        return head_divergence(hidden, expected, head.weight, head.bias)
    with torch.no_grad():
        log_teacher = backbone.logits_at(teacher.arguments, teacher.predictors).log_softmax(-1)
    with backbone.recomputing():
        log_student = backbone.logits_at(student.arguments, student.predictors).log_softmax(-1)
    return (log_teacher.exp() * (log_teacher - log_student)).sum(-1)
