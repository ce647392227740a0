"""run-demo and draw-catalogue: a drawn catalogue, and the whole product on it."""
