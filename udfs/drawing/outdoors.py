"""Products to wear, carry, fly, sail and drive, each as a list of parts drawn from back to front."""

from __future__ import annotations

from udfs.drawing.geometry import Part, Shape, box, ellipse, mirror, smooth

_T_SHIRT: Shape = (
    Part(
        "body",
        mirror(
            ((0.60, 0.12), (0.70, 0.14), (0.97, 0.36), (0.86, 0.52), (0.75, 0.44), (0.76, 0.90))
        ),
    ),
    Part("trim", ellipse(0.5, 0.12, 0.125, 0.10, arc=(0, 180)), width=0.035),
)

_SHOE: Shape = (
    Part(
        "body",
        (
            *smooth(((0.06, 0.30), (0.17, 0.36), (0.31, 0.38), (0.41, 0.28)), closed=False),
            *smooth(((0.44, 0.30), (0.58, 0.47), (0.80, 0.54), (0.95, 0.70)), closed=False),
            (0.95, 0.74),
            (0.06, 0.74),
        ),
    ),
    Part("trim", ((0.06, 0.30), (0.16, 0.36), (0.17, 0.74), (0.06, 0.74))),
    Part("pale", ((0.42, 0.46), (0.52, 0.36)), width=0.03),
    Part("pale", ((0.49, 0.52), (0.58, 0.43)), width=0.03),
    Part("pale", ((0.57, 0.56), (0.65, 0.47)), width=0.03),
    Part("pale", box(0.03, 0.71, 0.98, 0.83, radius=0.05)),
    Part("dark", ((0.06, 0.79), (0.95, 0.79)), width=0.015),
)

_KITE: Shape = (
    Part(
        "dark",
        smooth(((0.5, 0.76), (0.42, 0.84), (0.56, 0.90), (0.46, 0.98)), closed=False),
        width=0.018,
    ),
    Part("trim", ((0.36, 0.80), (0.47, 0.845), (0.36, 0.89))),
    Part("trim", ((0.56, 0.79), (0.45, 0.845), (0.56, 0.89))),
    Part("trim", ((0.44, 0.87), (0.55, 0.91), (0.44, 0.95))),
    Part("trim", ((0.65, 0.87), (0.54, 0.91), (0.65, 0.95))),
    Part("body", ((0.5, 0.02), (0.86, 0.34), (0.5, 0.78), (0.14, 0.34))),
    Part("dark", ((0.5, 0.02), (0.5, 0.78)), width=0.018),
    Part("dark", ((0.14, 0.34), (0.86, 0.34)), width=0.018),
)

_HAT: Shape = (
    Part("body", ellipse(0.5, 0.72, 0.48, 0.13)),
    Part(
        "body",
        (
            *smooth(
                ((0.25, 0.70), (0.28, 0.36), (0.38, 0.21), (0.5, 0.27), (0.62, 0.21), (0.72, 0.36)),
                closed=False,
            ),
            (0.75, 0.70),
            *ellipse(0.5, 0.70, 0.25, 0.06, arc=(0, 180)),
        ),
    ),
    Part(
        "trim",
        (
            (0.255, 0.58),
            *ellipse(0.5, 0.58, 0.24, 0.05, arc=(180, 0)),
            (0.75, 0.70),
            *ellipse(0.5, 0.70, 0.25, 0.06, arc=(0, 180)),
        ),
    ),
)

_BAG: Shape = (
    Part("trim", ellipse(0.5, 0.36, 0.19, 0.28, arc=(180, 360)), width=0.05),
    Part(
        "body", ((0.20, 0.34), (0.80, 0.34), (0.92, 0.84), (0.86, 0.93), (0.14, 0.93), (0.08, 0.84))
    ),
    Part("trim", ((0.20, 0.34), (0.80, 0.34), (0.82, 0.44), (0.18, 0.44))),
    Part("metal", box(0.44, 0.39, 0.56, 0.50, radius=0.02)),
)

_UMBRELLA: Shape = (
    Part("metal", ((0.5, 0.02), (0.5, 0.12)), width=0.03),
    Part("wood", ((0.5, 0.40), (0.5, 0.86)), width=0.04),
    Part("wood", ellipse(0.59, 0.86, 0.09, 0.09, arc=(180, 0)), width=0.05),
    Part(
        "body",
        (
            *ellipse(0.5, 0.54, 0.48, 0.45, arc=(180, 360)),
            *ellipse(0.86, 0.54, 0.12, 0.07, arc=(0, -180)),
            *ellipse(0.62, 0.54, 0.12, 0.07, arc=(0, -180)),
            *ellipse(0.38, 0.54, 0.12, 0.07, arc=(0, -180)),
            *ellipse(0.14, 0.54, 0.12, 0.07, arc=(0, -180)),
        ),
    ),
    Part("dark", smooth(((0.5, 0.09), (0.32, 0.26), (0.26, 0.53)), closed=False), width=0.014),
    Part("dark", smooth(((0.5, 0.09), (0.68, 0.26), (0.74, 0.53)), closed=False), width=0.014),
    Part("dark", ((0.5, 0.09), (0.5, 0.53)), width=0.014),
)

_BOAT: Shape = (
    Part("wood", box(0.475, 0.03, 0.515, 0.74)),
    Part("body", ((0.54, 0.05), (0.95, 0.64), (0.54, 0.64))),
    Part("body", ((0.45, 0.14), (0.45, 0.64), (0.08, 0.64))),
    Part("trim", ((0.04, 0.72), (0.97, 0.72), (0.84, 0.93), (0.20, 0.93))),
    Part("pale", ((0.06, 0.755), (0.95, 0.755), (0.92, 0.80), (0.09, 0.80))),
)

_CAR: Shape = (
    Part(
        "body",
        (
            *smooth(((0.03, 0.62), (0.05, 0.48), (0.22, 0.44)), closed=False),
            *smooth(((0.24, 0.43), (0.34, 0.25), (0.62, 0.25), (0.76, 0.44)), closed=False),
            *smooth(((0.80, 0.45), (0.94, 0.50), (0.97, 0.64)), closed=False),
            (0.96, 0.72),
            (0.04, 0.72),
        ),
    ),
    Part("glass", ((0.30, 0.44), (0.37, 0.30), (0.47, 0.30), (0.47, 0.44))),
    Part("glass", ((0.52, 0.44), (0.52, 0.30), (0.60, 0.30), (0.70, 0.44))),
    Part("dark", ((0.05, 0.71), (0.95, 0.71)), width=0.035),
    Part("dark", ellipse(0.25, 0.72, 0.125, 0.125)),
    Part("metal", ellipse(0.25, 0.72, 0.06, 0.06)),
    Part("dark", ellipse(0.75, 0.72, 0.125, 0.125)),
    Part("metal", ellipse(0.75, 0.72, 0.06, 0.06)),
    Part("pale", ellipse(0.935, 0.56, 0.03, 0.035)),
)

_HOUSE: Shape = (
    Part("dark", box(0.66, 0.10, 0.77, 0.36)),
    Part("body", box(0.17, 0.42, 0.83, 0.94)),
    Part("trim", ((0.05, 0.46), (0.5, 0.05), (0.95, 0.46))),
    Part("wood", box(0.42, 0.66, 0.58, 0.94)),
    Part("glass", box(0.23, 0.54, 0.36, 0.67)),
    Part("glass", box(0.64, 0.54, 0.77, 0.67)),
)

OUTDOORS: dict[str, Shape] = {
    "t-shirt": _T_SHIRT,
    "shoe": _SHOE,
    "kite": _KITE,
    "hat": _HAT,
    "bag": _BAG,
    "umbrella": _UMBRELLA,
    "boat": _BOAT,
    "car": _CAR,
    "house": _HOUSE,
}
