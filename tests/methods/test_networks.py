"""Neural networks: CG and the dense solver against an independent dense solve of the same loss."""

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import bestresponse as br
from checks import relative_error
from problems import NETWORKS, tuned_network


def dense_reference(model, decay, batch, damping, mask_seed):
    """The damped implicit hypergradient from one dense Hessian, on the live modules.

    The dropout masks are pinned by seeding the global generator, in the way the library promises.
    """
    weights, hyper = list(model.parameters()), list(decay.parameters())
    x, y = batch
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    with torch.random.fork_rng(devices=[]), sdpa_kernel(SDPBackend.MATH):
        torch.default_generator.manual_seed(mask_seed)
        inner = F.cross_entropy(model(x), y) + decay(model)
    grads = torch.autograd.grad(inner, weights, create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in grads])
    rows = [torch.autograd.grad(entry, weights, retain_graph=True) for entry in flat]
    hessian = torch.stack([torch.cat([g.reshape(-1) for g in row]) for row in rows])
    hessian = hessian + damping * torch.eye(len(flat))
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    model.eval()
    outer = torch.autograd.grad(F.cross_entropy(model(x), y), weights)
    model.train()
    assert torch.linalg.eigvalsh(hessian)[0] > 0
    q = torch.linalg.solve(hessian, torch.cat([g.reshape(-1) for g in outer]))
    mixed = torch.autograd.grad(flat @ q, hyper)
    return torch.cat([-m.reshape(-1) for m in mixed])


def inner_seed(nested):
    """The seed that the next call will give the inner closure."""
    stream = torch.Generator()
    stream.set_state(nested.state_dict()["stream"])
    return int(torch.randint(2**62, (2,), generator=stream)[0])


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("solver", [br.Dense(), br.CG(max_steps=400)], ids=["dense", "cg"])
def test_against_dense_solve(kind, solver):
    damping = 6.0  # batch norm's own Hessian goes down to -4.5
    model, decay, nested, batch = tuned_network(kind, br.Implicit(solver, damping=damping))
    expected = dense_reference(model, decay, batch, damping, inner_seed(nested))
    loss, report = nested(batch, batch)
    loss.backward()
    value = torch.cat([p.grad.reshape(-1) for p in decay.parameters()])
    assert report.result in (br.Result.success, br.Result.not_stationary)
    assert relative_error(value, expected) <= 1e-8


@pytest.mark.parametrize("kind", NETWORKS)
def test_finite_difference_close_to_implicit(kind):
    values = []
    for method in (br.Implicit(br.CG(5), damping=1.0), br.FiniteDifference(br.CG(5), damping=1.0)):
        torch.manual_seed(0)
        _, decay, nested, batch = tuned_network(kind, method)
        nested(batch, batch)[0].backward()
        values.append(torch.cat([p.grad.reshape(-1) for p in decay.parameters()]))
    assert relative_error(values[1], values[0]) <= 1e-6


@pytest.mark.parametrize("kind", NETWORKS)
def test_unroll_one_step_is_scale(kind):
    """One step of size a from w: dw₁/dλ = −a ∂²L_T/∂λ∂w, with the outer gradient taken at w₁."""
    lr = 1e-7
    values = []
    for method in (br.Implicit(br.Scale(lr)), br.Unroll(br.optim.SGD(lr), steps=1)):
        torch.manual_seed(0)
        _, decay, nested, batch = tuned_network(kind, method)
        nested(batch, batch)[0].backward()
        values.append(torch.cat([p.grad.reshape(-1) for p in decay.parameters()]))
    assert relative_error(values[1], values[0]) <= 1e-5
