"""Ridge regression: the hypergradient of one decay per weight, beside its closed form."""

import torch

import bestresponse as br

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
x, y, xv, yv = torch.randn(50, 8), torch.randn(50), torch.randn(30, 8), torch.randn(30)


def inner(params, hyper):
    residual = x @ params["w"] - y
    return 0.5 * residual @ residual + 0.5 * (hyper["log_decay"].exp() * params["w"] ** 2).sum()


def outer(params, hyper):
    return 0.5 * (xv @ params["w"] - yv).square().sum()


log_decay = torch.zeros(8)
matrix = x.T @ x + torch.diag(log_decay.exp())
w = torch.linalg.solve(matrix, x.T @ y)  # the best response
exact = -log_decay.exp() * w * torch.linalg.solve(matrix, xv.T @ (xv @ w - yv))

methods = {
    "dense": br.Implicit(br.Dense()),
    "8 products of CG": br.Implicit(br.CG(max_steps=8)),
    "3 products of CG": br.Implicit(br.CG(max_steps=3)),
    "20 terms of Neumann": br.Implicit(br.Neumann(lr=0.01, max_steps=20)),
    "21 unrolled steps": br.Unroll(br.optim.SGD(lr=0.01), steps=21),
    "scale": br.Implicit(br.Scale(0.02)),
}
for name, method in methods.items():
    result = br.hypergradient(inner, outer, {"w": w}, {"log_decay": log_decay}, method)
    error = (result.value["log_decay"] - exact).norm() / exact.norm()
    print(f"{name:>20}: relative error {error:.1e}; {result.report.result.name}")
