"""The file of ids to purge, as people save one: an id that is read otherwise would stay, and nothing would say so."""

from pathlib import Path

from jobs.purge_ids import _read_ids


def test_every_line_is_an_id_whatever_editor_wrote_it(tmp_path: Path) -> None:
    file = tmp_path / "ids.txt"
    file.write_bytes("\ufeffp1\r\np2, with a comma\n\n a \u2028 b\x0c\n \n".encode())
    assert _read_ids(None, file) == [" a \u2028 b\x0c", "p1", "p2, with a comma"]
    assert _read_ids("p1, p3", file)[1:] == ["p1", "p2, with a comma", "p3"]
