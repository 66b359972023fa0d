"""Names beside marks cover neither each other nor, where there is room, anything else."""

from itertools import pairwise

from api.charts.label_places import Box, Place, around, label_places

WIDTH, HEIGHT = 430.0, 320.0


def test_a_name_stands_left_of_its_mark_where_nothing_is_there() -> None:
    assert label_places([("rk4-3: 99%", 200.0, 100.0)], [], WIDTH, HEIGHT) == [Place(-1, 0.0)]


def test_at_the_left_edge_it_stands_right_of_it() -> None:
    assert label_places([("rk4-3: 99%", 20.0, 100.0)], [], WIDTH, HEIGHT) == [Place(1, 0.0)]


def test_a_name_stands_where_it_covers_the_fewest_marks() -> None:
    row = [around(x, 100.0, 5) for x in (140.0, 160.0, 240.0, 260.0)]

    assert label_places([("rk4-3: 99%", 200.0, 100.0)], row, WIDTH, HEIGHT) == [Place(-1, -17.0)]


def test_what_matters_less_is_covered_first() -> None:
    everywhere = [Box(0, 0, 200, HEIGHT, weight=2), Box(200, 0, WIDTH, 110, weight=1), Box(200, 115, WIDTH, HEIGHT, 2)]

    (place,) = label_places([("rk4-3: 99%", 200.0, 100.0)], everywhere, WIDTH, HEIGHT)

    assert place.side == 1


def test_the_names_of_marks_side_by_side_are_apart() -> None:
    labels = [("rk4-3: 99%", 200.0, 60.0), ("rk4-4: 99.9%", 210.0, 56.0), ("dopri5 rtol=0.001: 100%", 215.0, 50.0)]

    places = label_places(labels, [], WIDTH, HEIGHT)

    middles = [(y + place.dy, place.side) for (_, _, y), place in zip(labels, places, strict=True)]
    for side in (-1, 1):
        heights = sorted(y for y, at in middles if at == side)
        assert all(below - above >= 13 for above, below in pairwise(heights)), "lines of 13 pixels"
