"""The fixed inputs: texts and pictures as rows have them, alike in every installation.

Pictures are files of this package, drawn once by scripts/draw_canaries.py: drawn anew, their bytes would depend on the
Pillow that encodes them.
"""

from __future__ import annotations

import hashlib
from importlib import resources

from udfs.errors import CheckpointError
from udfs.gme.prepare import Row

_PICTURES = {
    "cmyk.jpg": "4828f6688f3071854a92f37efe016f958dfc59003361c83c6f6dec9a997879e6",
    "glass.png": "080a51175e7ead8028a2348ccda226ae84ca53def8bc61a36d73dea62415161a",
    "grey16.png": "cdb152784ef86dd34aadebb94e8ccc42e8dcbaa7adc57748e172e3f5b020fdc7",
    "large.png": "9ea030c36af2e46abde6d9d03e26a402aa83c4aedd48b9bb890e96110c8ac35f",
    "photo.jpg": "d0b6f784177a6d9a808c9792cf9d96b8ef2f9a582897f4e6dfa80c04cec6cc7e",
    "photo.webp": "544ccb13a41405d973f4b1048f1834f8d0c81e0d88644c6a5fda0c65bd867162",
    "small.gif": "09c577c11f36b875b6dfb7e4a7c20ea12023a94e49d890f1c7036937f4bee838",
    "tiny.png": "600423ec6b0f02bc4ec9709f732bf5b869767c9ba569a5ea38232b39e5076be3",
    "turned.jpg": "f075e1912d1f8fc077ec8a5bb1f609b8d632b681d7e8d15c76cc6c7284004a44",
    "wide.tif": "371d4ed6b1dcda9bf84c58bf72a3085203d9096484d9524789ab8e3a9f2523da",
}
_SENTENCE = (
    "Number {number}: a mug of {size} ml, glazed in red, with white dots and a handle for two fingers; it may go "
    "into the dishwasher, and costs {price}.90 a piece."
)


def canary_rows() -> dict[str, Row]:
    """The inputs by name: short and long texts, pictures of several formats, sizes and modes, and both.

    Raises CheckpointError where this installation has lost a picture, or has other bytes.
    """
    long_text = " ".join(_SENTENCE.format(number=n, size=90 + 7 * n, price=3 + n) for n in range(8))
    pictures = {name: Row(image=_picture(name, sha256)) for name, sha256 in _PICTURES.items()}
    task = "Find a picture of the product that the text describes."
    return {
        "word": Row(text="mug"),
        "languages": Row(text="Größe 38–42, weiß\nキャンバス製の白い靴 №7, ¥6,900 👟 <|im_end|>"),
        "long text": Row(text=long_text),
        "query": Row(text="a red mug with white dots", instruction=task, is_query=True),
        **pictures,
        "both": Row(text="A vase of blue glass. 21 cm", image=pictures["photo.jpg"].image),
        "query of both": Row(
            text="the same in green",
            image=pictures["photo.webp"].image,
            instruction=task,
            is_query=True,
        ),
    }


def _picture(name: str, sha256: str) -> bytes:
    data = (resources.files("udfs.gme.canaries") / "pictures" / name).read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise CheckpointError(
            f"udfs/gme/canaries/pictures/{name} of this installation has sha-256 {found[:16]}…, not {sha256[:16]}…: install "
            "gme-lake again"
        )
    return data
