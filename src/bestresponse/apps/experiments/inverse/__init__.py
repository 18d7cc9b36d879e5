"""Inverse-Hessian approximations compared, and against unrolling."""
