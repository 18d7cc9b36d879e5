"""Self-tuning networks beside grids of fixed hyperparameters."""
