"""What one hypergradient costs, beside the peers. Run with `python -m benchmarks`."""
