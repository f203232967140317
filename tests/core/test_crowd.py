"""Crowds: sets that never change, and whose changed copies share what did not change."""

from hypothesis import given
from hypothesis import strategies as st

from wsbus.core.crowd import Crowd

_numbers = st.integers(0, 1 << 12).map(lambda number: number * 16)  # Like addresses of objects.
_edits = st.lists(st.frozensets(_numbers, max_size=40), max_size=12)


@given(st.integers(0, 3000), _edits)
def test_an_edited_crowd_is_the_set_and_the_one_before_stays(
    size: int, edits: list[frozenset[int]]
) -> None:
    """Each crowd holds what a set with the same history holds, also after it was edited."""
    start = [number * 16 for number in range(size)]
    history = [(Crowd(start), set(start))]
    for flipped in edits:
        crowd, model = history[-1]
        come, gone = sorted(flipped - model), sorted(flipped & model)
        history.append((crowd.edited(come, gone), model ^ flipped))
    for crowd, model in history:
        assert len(crowd) == len(model)
        assert set(crowd) == model
        assert len(list(crowd)) == len(model)
        wanted = {0, 16, 32, 7, *range(0, 1 << 16, 1024)}
        assert crowd.among(wanted) == model & wanted
        assert {number for number in wanted if number in crowd} == model & wanted


def test_a_new_crowd_keeps_its_order_and_so_does_a_small_one() -> None:
    """Until a large one is edited, members stand in the order in which they came."""
    assert list(Crowd([5, 3, 9])) == [5, 3, 9]
    assert list(Crowd([5, 3, 9]).edited([1], [3])) == [5, 9, 1]
    assert list(Crowd(range(10_000, 0, -1))) == list(range(10_000, 0, -1))


def test_an_edit_of_a_large_crowd_copies_few_members() -> None:
    """One member more or less costs a copy of the one part in which it stands."""
    crowd = Crowd(range(10_000)).edited([10_000], [])
    for come, gone in (([10_001], []), ([], [77]), ([], [10_000])):
        after = crowd.edited(come, gone)
        copied = [
            new for new, old in zip(after._parts, crowd._parts, strict=True) if new is not old
        ]
        assert len(copied) == 1
        assert len(copied[0]) < 512
        crowd = after


def test_parts_follow_the_size() -> None:
    """A crowd that grows or shrinks by far is divided anew, so that no part is large."""
    crowd = Crowd(range(600)).edited([600], [])
    crowd = crowd.edited(range(601, 20_000), []).edited([20_000], [])
    assert max(map(len, crowd._parts)) <= 1024
    few = crowd.edited([], range(100, 20_001)).edited([], [0])
    assert set(few) == set(range(1, 100))
    assert len(few._parts) < 10
