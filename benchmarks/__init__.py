"""Cost, memory and accuracy of hypergradients, beside the peers: `python -m benchmarks`."""
