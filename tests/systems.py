"""Linear systems with chosen eigenvalues, and the shortest way to solve one."""

import torch

import bestresponse as br


def symmetric(eigenvalues, seed=0):
    """A symmetric matrix with these eigenvalues and random eigenvectors."""
    generator = torch.Generator().manual_seed(seed)
    size = (len(eigenvalues), len(eigenvalues))
    basis = torch.linalg.qr(torch.randn(size, generator=generator, dtype=torch.float64))[0]
    matrix = basis @ torch.diag(eigenvalues.double()) @ basis.T
    return (matrix + matrix.T) / 2


def vector(size, seed=5):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def solve(solver, matrix, b, **kwargs):
    return br.linear_solve(br.Matrix(matrix), b, solver, **kwargs)


def residual(value, matrix, b):
    return float((b - matrix @ value).norm() / b.norm())


def outlying(size=60, outliers=(1e-3, 1e-2, 200.0, 500.0, 1000.0), seed=0):
    """Many eigenvalues between 1 and 2 and a few far from them, as Hessians have them."""
    bulk = torch.linspace(1.0, 2.0, size - len(outliers))
    return symmetric(torch.cat([torch.tensor(outliers), bulk]), seed)


def slowly_turning(matrix, drift, count, seed=7):
    """`count` systems whose eigenvectors turn by `drift` from one to the next."""
    generator = torch.Generator().manual_seed(seed)
    size = len(matrix)
    skew = torch.randn(size, size, generator=generator, dtype=torch.float64) / size**0.5
    turn = torch.matrix_exp(drift * (skew - skew.T))
    first = torch.randn(size, generator=generator, dtype=torch.float64)
    for _ in range(count):
        matrix = turn @ matrix @ turn.T
        noise = torch.randn(size, generator=generator, dtype=torch.float64)
        yield (matrix + matrix.T) / 2, first + 0.3 * noise
