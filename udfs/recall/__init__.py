"""How good an index is: ground truth, recall, and the choice of operating points."""
