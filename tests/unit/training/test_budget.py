"""Packing of padded batches: every row exactly once, budgets held, padding bounded."""

from hypothesis import given
from hypothesis import strategies as st

from udfs.training.budget import PaddedBudget, pack_padded

rows = st.lists(st.tuples(st.integers(1, 2000), st.sampled_from([0, 16, 1024, 5120])), max_size=60)


@given(
    rows=rows,
    budget=st.builds(
        PaddedBudget, st.integers(1, 8000), st.integers(1, 12000), st.integers(0, 3000)
    ),
)
def test_every_row_once_and_budgets_held(rows, budget):
    tokens, patches = [row[0] for row in rows], [row[1] for row in rows]
    batches = pack_padded(tokens, patches, budget=budget)
    assert sorted(row for batch in batches for row in batch) == list(range(len(rows)))
    for batch in batches:
        width = max(tokens[row] for row in batch)
        if len(batch) > 1:
            assert len(batch) * width <= budget.tokens
            assert sum(patches[row] for row in batch) <= budget.patches
            assert len(batch) * width - sum(tokens[row] for row in batch) <= budget.waste


def test_like_lengths_share_batches():
    tokens = [1300, 20, 1290, 21, 20, 1280]
    batches = pack_padded(tokens, [0] * 6, budget=PaddedBudget(16_384, 65_536, waste=64))
    assert sorted(map(sorted, batches)) == [[0, 2, 5], [1, 3, 4]]
