"""The loss against its formula, written out with numpy."""

import numpy as np
import pytest
import torch

from udfs.training.loss import contrastive_loss
from udfs.training.plan import Term

TAU = 0.07


def unit(n, d=8, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def plain(x, query, target, negatives):
    """-log(exp(q.p / tau) / (exp(q.p / tau) + sum exp(q.n / tau)))"""
    right = np.exp(x[query] @ x[target] / TAU)
    wrong = sum(np.exp(x[query] @ x[n] / TAU) for n in negatives)
    return -np.log(right / (right + wrong))


def loss_of(x, ids, terms, valid=None):
    return contrastive_loss(
        torch.tensor(x, requires_grad=True),
        ids=torch.tensor(ids),
        terms=terms,
        temperature=TAU,
        valid=None if valid is None else torch.tensor(valid),
    )


def test_in_batch_and_hard_negatives():
    """Three queries (0..2), their positives (3..5), two hard negatives (6, 7)."""
    x = unit(8)
    term = Term("t2i", np.arange(3), np.arange(3, 6), np.arange(3, 8))
    expected = np.mean([plain(x, q, 3 + q, set(range(3, 8)) - {3 + q}) for q in range(3)])
    found = loss_of(x, np.arange(8), [term])
    assert found.total.item() == pytest.approx(expected, rel=1e-9)
    best = (x[:3] @ x[3:].T).argmax(axis=1)
    assert found.accuracy == {"t2i": pytest.approx((best == np.arange(3)).mean())}


def test_another_right_answer_is_no_negative():
    """Positives 3 and 4 show the same thing, and 7 shows what query 2 shows."""
    x = unit(8)
    ids = np.array([0, 1, 2, 10, 10, 12, 13, 2])
    term = Term("t2i", np.arange(3), np.arange(3, 6), np.arange(3, 8))
    negatives = {0: [5, 6, 7], 1: [5, 6, 7], 2: [3, 4, 6]}
    expected = np.mean([plain(x, q, 3 + q, n) for q, n in negatives.items()])
    assert loss_of(x, ids, [term]).total.item() == pytest.approx(expected, rel=1e-9)


def test_terms_add_by_weight_and_rows_that_cannot_be_read_are_left_out():
    x = unit(8)
    valid = np.array([True, False, True, True, True, True, False, True])
    terms = [
        Term("t2i", np.arange(3), np.arange(3, 6), np.arange(3, 8), 0.5),
        Term("i2t", np.arange(3, 6), np.arange(3), np.arange(3), 2.0),
    ]
    forth = np.mean([plain(x, q, 3 + q, {3, 4, 5, 7} - {3 + q}) for q in (0, 2)])
    back = np.mean([plain(x, 3 + q, q, {0, 2} - {q}) for q in (0, 2)])
    found = loss_of(x, np.arange(8), terms, valid)
    assert found.total.item() == pytest.approx(0.5 * forth + 2.0 * back, rel=1e-9)
    found.total.backward()


def test_no_readable_pair_is_no_loss_and_no_nan():
    vectors = torch.tensor(unit(4), requires_grad=True)
    term = Term("t2i", np.arange(2), np.arange(2, 4), np.arange(2, 4))
    found = contrastive_loss(
        vectors,
        ids=torch.arange(4),
        terms=[term],
        temperature=TAU,
        valid=torch.tensor([False, True, True, False]),
    )
    found.total.backward()
    assert found.total.item() == 0.0
    assert vectors.grad.abs().max() == 0.0
