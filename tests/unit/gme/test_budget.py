"""Packing: every row exactly once, budgets held, batches full, pictures of one size together."""

from hypothesis import given
from hypothesis import strategies as st

from udfs.gme.budget import Budget, pack

rows = st.lists(st.tuples(st.integers(1, 2000), st.sampled_from([0, 16, 1024, 5120])), max_size=60)


@given(rows=rows, budget=st.builds(Budget, st.integers(1, 8000), st.integers(1, 12000)))
def test_every_row_once_and_budgets_held(rows, budget):
    tokens, patches = [row[0] for row in rows], [row[1] for row in rows]
    batches = pack(tokens, patches, budget=budget)
    assert sorted(row for batch in batches for row in batch) == list(range(len(rows)))
    for batch in batches:
        if len(batch) > 1:
            assert sum(tokens[row] for row in batch) <= budget.tokens
            assert sum(patches[row] for row in batch) <= budget.patches
        sizes = [patches[row] for row in batch]
        assert sizes == sorted(sizes, reverse=True)
    longest = [max(tokens[row] for row in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)


def test_lengths_may_differ_within_a_batch():
    tokens = [1300, 20, 1290, 21, 20, 1280]
    assert pack(tokens, [0] * 6, budget=Budget(16_384, 65_536)) == [[0, 2, 5, 3, 1, 4]]
    assert [len(batch) for batch in pack([100] * 7, [0] * 7, budget=Budget(300, 0))] == [3, 3, 1]
