"""Best responses learned as functions: hypernetworks beside cross-validation."""
