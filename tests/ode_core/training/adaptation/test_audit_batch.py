import pytest
import torch

from ode_core.specs import AuditBatchTooLarge, CertifiedAdaptation
from ode_core.training.adaptation.audit_batch import hold_out_audit_batch


def test_the_samples_are_split_without_overlap_or_loss() -> None:
    left, held_out = hold_out_audit_batch(CertifiedAdaptation(audit_samples=500), 1437)
    assert len(held_out) == 500
    assert torch.equal(torch.cat([left, held_out]).sort().values, torch.arange(1437))


def test_the_seed_alone_decides_which() -> None:
    def held_out(seed: int) -> torch.Tensor:
        return hold_out_audit_batch(CertifiedAdaptation(audit_seed=seed), 2000)[1]

    assert torch.equal(held_out(1), held_out(1))
    assert not torch.equal(held_out(1), held_out(2))


def test_more_than_half_of_the_training_split_is_refused_with_the_most_that_can_be_taken() -> None:
    hold_out_audit_batch(CertifiedAdaptation(audit_samples=500), 1000)
    with pytest.raises(AuditBatchTooLarge, match=r"999 samples: take at most 499"):
        hold_out_audit_batch(CertifiedAdaptation(audit_samples=500), 999)
