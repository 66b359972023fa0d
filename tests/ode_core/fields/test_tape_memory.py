import copy
import dataclasses
import pickle

import pytest
import torch

from ode_core.fields.tape_memory import TapeLayout, TapePool

LAYOUT = TapeLayout(
    networks=None,
    batch=5,
    features=2,
    widths=(4, 3),
    keeps_both=True,
    dtype=torch.float32,
    device=torch.device("cpu"),
)
STACK = dataclasses.replace(LAYOUT, networks=3, features=12, keeps_both=False)


def test_memory_is_given_out_to_one_user_at_a_time():
    pool = TapePool()
    first, second = pool.take(LAYOUT, 6), pool.take(LAYOUT, 6)
    assert first is not second
    pool.give(first)
    assert pool.take(LAYOUT, 4) is first
    assert pool.take(LAYOUT, 4) is not first


@pytest.mark.parametrize(
    "change",
    [{"networks": 1}, {"batch": 4}, {"features": 1}, {"widths": (4,)}, {"keeps_both": False}, {"dtype": torch.float64}],
)
def test_memory_of_another_layout_is_not_given_out(change):
    pool = TapePool()
    other = pool.take(LAYOUT, 6)
    pool.give(other)
    layout = dataclasses.replace(LAYOUT, **change)
    assert pool.take(layout, 6).layout == layout


@pytest.mark.parametrize("slots", [2, 7])
def test_memory_that_is_too_small_or_far_too_large_is_not_given_out(slots):
    pool = TapePool()
    pool.give(pool.take(LAYOUT, 6))
    assert pool.take(LAYOUT, slots).slots == slots


@pytest.mark.parametrize("layout", [LAYOUT, STACK])
def test_no_two_evaluations_share_memory(layout):
    memory = TapePool().take(layout, 3)
    places = [memory.stages, memory.cotangents.slopes]
    for layers in (memory.before, memory.after, memory.cotangents.layers):
        places += [list(layer) for layer in zip(*layers, strict=True)]
    if not layout.keeps_both:
        places = [*places[:2], *places[4:]]  # the activation is applied in place
    for number, place in enumerate(values for slots in places for values in slots):
        place.fill_(number)
    for number, place in enumerate(values for slots in places for values in slots):
        assert (place == number).all()


@pytest.mark.parametrize("layout", [LAYOUT, STACK])
def test_the_other_views_of_an_evaluation_are_of_the_same_numbers(layout):
    memory = TapePool().take(layout, 3)
    cotangents = memory.cotangents
    for slot in range(3):
        memory.stages[slot].normal_()
        memory.after[slot][-1].normal_()
        cotangents.layers[slot][-1].normal_()
        rows = memory.stages[slot].mT if layout.narrow else memory.stages[slot]
        assert torch.equal(memory.inputs[slot], rows)
        assert torch.equal(memory.last_columns[slot].mT, memory.after[slot][-1])
        assert torch.equal(cotangents.first_columns[slot].mT, cotangents.hidden[0][slot])
        assert memory.before_reversed[slot][0] is memory.before[slot][-1]


def test_a_copy_of_a_pool_shares_no_memory_and_none_is_stored_with_it():
    pool = TapePool()
    memory = pool.take(LAYOUT, 6)
    pool.give(memory)
    assert copy.deepcopy(pool).take(LAYOUT, 6) is not memory
    assert pickle.loads(pickle.dumps(pool)).take(LAYOUT, 6) is not memory


def test_memory_of_inference_mode_is_used_again_there_and_nowhere_else():
    pool = TapePool()
    with torch.inference_mode():
        memory = pool.take(LAYOUT, 6)
        pool.give(memory)
        assert pool.take(LAYOUT, 6) is memory
        pool.give(memory)
    taken = pool.take(LAYOUT, 6)
    assert taken is not memory
    taken.stages[0].clone().requires_grad_().square().sum().backward()


def test_a_pool_is_bounded(monkeypatch):
    pool = TapePool()
    first, second = pool.take(LAYOUT, 6), pool.take(STACK, 6)
    monkeypatch.setattr(TapePool, "_MOST_BYTES", first.nbytes + second.nbytes - 1)
    pool.give(first)
    pool.give(second)
    assert pool.take(STACK, 6) is second
    assert pool.take(LAYOUT, 6) is not first


def test_the_size_of_memory_counts_all_of_its_numbers():
    memory = TapePool().take(LAYOUT, 6)
    evaluations = 6 * 5 * (2 + 2 * (4 + 3)) * 4
    assert memory.nbytes == evaluations
    assert memory.cotangents.slots == 6
    assert memory.nbytes == evaluations + 6 * 5 * (2 + 4 + 3) * 4
