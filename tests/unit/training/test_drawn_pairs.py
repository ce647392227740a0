"""Drawn pairs as rows: the train split alone, all directions, readable by a training."""

import pyarrow as pa

from udfs.drawing import held_out
from udfs.drawing.training_pairs import DrawnPairsSpec, draw_pair, draw_pair_batches
from udfs.gme.images import decode_image
from udfs.training.data import write_pairs


def test_pairs_show_and_ask_for_trained_products_alone(monkeypatch):
    from udfs.drawing import training_pairs as drawn_pairs

    shown = []
    monkeypatch.setattr(drawn_pairs, "draw_jpeg", lambda *c, **_: shown.append(c) or b"jpeg")
    pairs = [draw_pair(number, spec=DrawnPairsSpec()) for number in range(1500)]
    unseen = set(held_out())
    assert len(shown) == 500 + 1000 + 1000
    assert not unseen & set(shown)
    assert not {"/".join(c) for c in unseen} & {pair["positive_id"] for pair in pairs}
    assert len({pair["positive_id"] for pair in pairs}) > 600


def test_the_same_number_is_the_same_pair_and_a_training_reads_it(tmp_path):
    numbers = pa.RecordBatch.from_pydict({"id": list(range(6))})
    (batch,) = draw_pair_batches(iter([numbers]), spec=DrawnPairsSpec(seed=3))
    assert batch.to_pylist()[4] == draw_pair(4, spec=DrawnPairsSpec(seed=3))
    assert batch.to_pylist()[4] != draw_pair(4, spec=DrawnPairsSpec(seed=4))
    assert batch["direction"].to_pylist() == ["t2i", "i2i", "it2i"] * 2
    for row in batch.to_pylist():
        assert ("t" in row["direction"].split("2")[0]) == (row["query_text"] is not None)
        for picture in (row["query_image"], row["positive_image"]):
            assert (
                picture is None
                or decode_image(picture, upright=True, background="white").width == 224
            )
        assert row["query_image"] != row["positive_image"]
    assert write_pairs(tmp_path / "pairs.arrow", [batch]).is_file()
