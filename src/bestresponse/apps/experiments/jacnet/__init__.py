"""Functions learned by their Jacobian: what the paper shows."""
