"""Products that stand in a room, each as a list of parts drawn from back to front."""

from __future__ import annotations

from udfs.drawing.geometry import Part, Shape, box, ellipse, mirror, smooth

_MUG: Shape = (
    Part("body", ellipse(0.70, 0.53, 0.19, 0.18, arc=(-90, 90)), width=0.085),
    Part(
        "body", ((0.14, 0.25), (0.70, 0.25), (0.69, 0.80), (0.62, 0.88), (0.22, 0.88), (0.15, 0.80))
    ),
    Part("dark", ellipse(0.42, 0.25, 0.28, 0.065)),
    Part("pale", smooth(((0.32, 0.14), (0.29, 0.09), (0.34, 0.04)), closed=False), width=0.025),
    Part("pale", smooth(((0.48, 0.14), (0.45, 0.09), (0.50, 0.04)), closed=False), width=0.025),
)

_LAMP: Shape = (
    Part("metal", box(0.465, 0.50, 0.535, 0.86)),
    Part("metal", ((0.66, 0.50), (0.66, 0.64)), width=0.012),
    Part("dark", ellipse(0.66, 0.66, 0.022, 0.022)),
    Part("trim", mirror(((0.56, 0.82), (0.72, 0.90), (0.72, 0.94)))),
    Part("body", ((0.32, 0.06), (0.68, 0.06), (0.90, 0.52), (0.10, 0.52))),
    Part("pale", ((0.10, 0.52), (0.90, 0.52), (0.89, 0.555), (0.11, 0.555))),
)

_CHAIR: Shape = (
    Part("wood", ((0.32, 0.64), (0.32, 0.88)), width=0.045),
    Part("wood", ((0.68, 0.64), (0.68, 0.88)), width=0.045),
    Part("wood", ((0.34, 0.40), (0.34, 0.60)), width=0.045),
    Part("wood", ((0.66, 0.40), (0.66, 0.60)), width=0.045),
    Part("body", box(0.25, 0.05, 0.75, 0.47, radius=0.08)),
    Part("wood", ((0.20, 0.68), (0.17, 0.97)), width=0.055),
    Part("wood", ((0.80, 0.68), (0.83, 0.97)), width=0.055),
    Part(
        "body", ((0.25, 0.55), (0.75, 0.55), (0.87, 0.69), (0.87, 0.74), (0.13, 0.74), (0.13, 0.69))
    ),
)

_CLOCK: Shape = (
    Part("dark", ((0.26, 0.84), (0.18, 0.97)), width=0.06),
    Part("dark", ((0.74, 0.84), (0.82, 0.97)), width=0.06),
    Part("metal", ((0.5, 0.05), (0.5, 0.16)), width=0.05),
    Part("metal", ellipse(0.26, 0.17, 0.15, 0.11)),
    Part("metal", ellipse(0.74, 0.17, 0.15, 0.11)),
    Part("body", ellipse(0.5, 0.55, 0.41, 0.41)),
    Part("pale", ellipse(0.5, 0.55, 0.23, 0.23)),
    Part("dark", ((0.5, 0.55), (0.5, 0.37)), width=0.028),
    Part("dark", ((0.5, 0.55), (0.62, 0.62)), width=0.028),
    Part("dark", ((0.5, 0.33), (0.5, 0.355)), width=0.02),
    Part("dark", ((0.5, 0.745), (0.5, 0.77)), width=0.02),
    Part("dark", ((0.28, 0.55), (0.305, 0.55)), width=0.02),
    Part("dark", ((0.695, 0.55), (0.72, 0.55)), width=0.02),
)

_BOTTLE: Shape = (
    Part(
        "body",
        mirror(
            (
                (0.57, 0.12),
                (0.57, 0.28),
                *smooth(((0.58, 0.30), (0.68, 0.38), (0.71, 0.48)), closed=False),
                (0.71, 0.92),
                (0.67, 0.97),
            )
        ),
    ),
    Part("dark", box(0.40, 0.03, 0.60, 0.13, radius=0.02)),
    Part("trim", box(0.42, 0.20, 0.58, 0.25)),
)

_BOOK: Shape = (
    Part("pale", ((0.15, 0.88), (0.24, 0.96), (0.88, 0.96), (0.79, 0.88))),
    Part("pale", ((0.79, 0.06), (0.88, 0.14), (0.88, 0.96), (0.79, 0.88))),
    Part("dark", ((0.82, 0.10), (0.82, 0.90)), width=0.010),
    Part("dark", ((0.85, 0.13), (0.85, 0.93)), width=0.010),
    Part("body", box(0.13, 0.06, 0.79, 0.88)),
    Part("trim", box(0.13, 0.06, 0.23, 0.88)),
    Part("pale", box(0.34, 0.16, 0.70, 0.34)),
    Part("dark", ((0.39, 0.22), (0.65, 0.22)), width=0.025),
    Part("dark", ((0.43, 0.285), (0.61, 0.285)), width=0.018),
)

_GUITAR: Shape = (
    Part(
        "body",
        smooth(
            mirror(
                (
                    (0.56, 0.41),
                    (0.69, 0.46),
                    (0.67, 0.58),
                    (0.77, 0.70),
                    (0.78, 0.85),
                    (0.62, 0.97),
                )
            )
        ),
    ),
    Part("wood", box(0.463, 0.12, 0.537, 0.60)),
    Part("dark", ((0.435, 0.01), (0.565, 0.01), (0.545, 0.13), (0.455, 0.13))),
    Part("dark", ellipse(0.5, 0.63, 0.075, 0.075)),
    Part("dark", box(0.40, 0.83, 0.60, 0.87)),
    Part("pale", ((0.485, 0.10), (0.485, 0.84)), width=0.009),
    Part("pale", ((0.515, 0.10), (0.515, 0.84)), width=0.009),
)

INDOORS: dict[str, Shape] = {
    "mug": _MUG,
    "lamp": _LAMP,
    "chair": _CHAIR,
    "clock": _CLOCK,
    "bottle": _BOTTLE,
    "book": _BOOK,
    "guitar": _GUITAR,
}
