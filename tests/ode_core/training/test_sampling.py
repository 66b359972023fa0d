import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ode_core.training.sampling import BatchSampler

samplers = st.builds(
    BatchSampler, samples=st.integers(1, 40), batch_size=st.integers(1, 60), seed=st.integers(0, 2**31 - 1)
)


@given(samplers, st.integers(1, 30))
def test_batches_in_a_row_are_one_permutation_of_the_data_after_another(sampler: BatchSampler, batches: int) -> None:
    seen = torch.cat([sampler.batch(i) for i in range(batches)]).tolist()
    assert len(seen) == batches * sampler.batch_size
    for start in range(0, len(seen), sampler.samples):
        order = seen[start : start + sampler.samples]
        assert len(set(order)) == len(order)
        assert set(order) <= set(range(sampler.samples))


@given(samplers, st.lists(st.integers(0, 50), max_size=10))
def test_a_batch_does_not_depend_on_which_were_asked_for_before(sampler: BatchSampler, asked: list[int]) -> None:
    anew = {i: BatchSampler(sampler.samples, sampler.batch_size, sampler.seed).batch(i) for i in asked}
    for i in asked:
        assert torch.equal(sampler.batch(i), anew[i])


def test_seeds_and_epochs_have_orders_of_their_own() -> None:
    epochs = [tuple(BatchSampler(100, 100, seed).batch(epoch).tolist()) for seed in (0, 1, 2) for epoch in (0, 1, 2)]
    assert len(set(epochs)) == len(epochs)


def test_every_sample_is_equally_likely_in_the_first_batch() -> None:
    # 4,000 seeds, 5 of 20 samples each: counts are binomial(4000, 1/4), whose standard deviation is 27.4; six of
    # them are exceeded by one of 20 counts in less than one of ten million runs.
    counts = torch.zeros(20, dtype=torch.int64)
    for seed in range(4000):
        counts[BatchSampler(20, 5, seed).batch(0)] += 1
    assert (counts - 1000).abs().max() < 6 * 27.4


def test_without_data_there_is_nothing_to_sample() -> None:
    with pytest.raises(ValueError, match="no training data"):
        BatchSampler(0, 8, seed=0)
