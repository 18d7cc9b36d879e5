"""Comparisons that every test shares."""

import torch


def relative_error(value, reference):
    """‖value − reference‖ / ‖reference‖ over tensors or trees."""
    value, reference = _flat(value), _flat(reference)
    return float((value - reference).norm() / reference.norm())


def _flat(item):
    if isinstance(item, dict):
        return torch.cat([leaf.detach().reshape(-1).double() for leaf in item.values()])
    return item.detach().reshape(-1).double()


def central_difference(function, tree, step=1e-4):
    """The gradient of a scalar function of a tree, entry by entry."""
    gradient = {name: torch.zeros_like(leaf) for name, leaf in tree.items()}
    for name, leaf in tree.items():
        for i in range(leaf.numel()):
            moved = []
            for sign in (1, -1):
                other = {k: v.clone() for k, v in tree.items()}
                other[name].view(-1)[i] += sign * step
                moved.append(function(other))
            gradient[name].view(-1)[i] = (moved[0] - moved[1]) / (2 * step)
    return gradient


def snapshot(*modules, optimizers=()):
    """Everything a call must leave alone, as bytes that can be compared."""
    state = [{k: v.clone() for k, v in module.state_dict().items()} for module in modules]
    grads = [
        None if p.grad is None else p.grad.clone()
        for module in modules
        for p in module.parameters()
    ]
    modes = [m.training for module in modules for m in module.modules()]
    needs = [p.requires_grad for module in modules for p in module.parameters()]
    states = [
        {k: v.clone() for k, v in s.items() if torch.is_tensor(v)}
        for optimizer in optimizers
        for s in optimizer.state.values()
    ]
    return state, grads, modes, needs, states, torch.get_rng_state()


def assert_same(before, after):
    """Bit-identical snapshots."""
    assert type(before) is type(after)
    if isinstance(before, torch.Tensor):
        assert torch.equal(before, after)
    elif isinstance(before, dict):
        assert list(before) == list(after)
        for name in before:
            assert_same(before[name], after[name])
    elif isinstance(before, list | tuple):
        assert len(before) == len(after)
        for one, other in zip(before, after, strict=True):
            assert_same(one, other)
    else:
        assert before == after


def dense_hypergradient(params, hyper, inner, outer, damping=0.0):
    """The implicit hypergradient of live leaves by one dense Hessian: no part of the library.

    `inner` and `outer` are zero-argument closures that must draw the same randomness each time.
    """
    params, hyper = list(params), list(hyper)
    gradients = torch.autograd.grad(inner(), params, create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in gradients])
    rows = [
        torch.autograd.grad(
            entry, params, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for entry in flat
    ]
    hessian = torch.stack([torch.cat([g.reshape(-1) for g in row]) for row in rows])
    parts = torch.autograd.grad(
        outer(), [*params, *hyper], allow_unused=True, materialize_grads=True
    )
    right = torch.cat([g.reshape(-1) for g in parts[: len(params)]])
    q = torch.linalg.solve(hessian + damping * torch.eye(len(flat)), right)
    mixed = torch.autograd.grad(flat @ q, hyper, allow_unused=True, materialize_grads=True)
    return torch.cat(
        [(d - m).reshape(-1) for d, m in zip(parts[len(params) :], mixed, strict=True)]
    )


def call_gradient(nested, hyper, *batches):
    """The gradient that one call attaches, flat, and its report; `.grad` is cleared first."""
    parameters = list(hyper.parameters())
    for parameter in parameters:
        parameter.grad = None
    loss, report = nested(*batches)
    loss.backward()
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    return torch.cat([g.reshape(-1) for g in grads]), report
