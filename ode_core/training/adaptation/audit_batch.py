"""The samples a certified adaptation judges on, and those that are left to train on."""

import numpy as np
import torch
from torch import Tensor

from ode_core.specs.adaptation import CertifiedAdaptation, check_audit_batch


def hold_out_audit_batch(spec: CertifiedAdaptation, samples: int) -> tuple[Tensor, Tensor]:
    """Return the indices to train on and those of the audit batch, both sorted, which depend on ``audit_seed`` alone.

    Raises:
        AuditBatchTooLarge: that is more than half of the ``samples`` of the training split.
    """
    check_audit_batch(spec, samples)
    order = np.random.default_rng([spec.audit_seed, samples]).permutation(samples)
    held_out, left = np.split(order, [spec.audit_samples])
    return torch.from_numpy(np.sort(left)), torch.from_numpy(np.sort(held_out))
