"""Several inner batches: averaged, one graph at a time, or another one for each product."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Categorical

import bestresponse as br
from bestresponse.methods._curvature import Curvature, ExactHessian, inner_at
from checks import relative_error
from curvatures import Case, make

KINDS = {
    "hessian": lambda predict, loss, penalty: ExactHessian(),
    "gauss-newton": br.GaussNewton,
    "fisher": lambda predict, loss, penalty: br.Fisher(
        predict, lambda f: Categorical(logits=f), penalty, targets=lambda x, y: y
    ),
}


def batches(kind, count=3, rows=4):
    x, y = make(kind, count * rows)[1]
    return br.Batches(list(zip(x.split(rows), y.split(rows), strict=True))), (x, y)


def solve(kind, curvature, batch, solver=None, **options):
    case = Case(
        kind, curvature=KINDS[curvature], solver=solver or br.Dense(), damping=2.0, **options
    )
    with case.operator(batch) as (operator, point, _):
        matrix, gradient = operator.as_matrix(), point.gradient
        mixed = point.mixed_product(torch.ones(operator.size))
    value, report = case(batch)
    return {"matrix": matrix, "gradient": gradient, **mixed, "value": value}, report


@pytest.mark.parametrize("curvature", KINDS)
@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_averaged_batches_are_one_concatenated_batch(kind, curvature):
    parts, together = batches(kind)
    averaged, report = solve(kind, curvature, parts)
    expected, one = solve(kind, curvature, together)
    for name, found in averaged.items():
        assert relative_error(found, expected[name]) <= 1e-10, name
    assert report.inner_gradient_norm == pytest.approx(one.inner_gradient_norm, rel=1e-10)


@pytest.mark.parametrize("curvature", KINDS)
@pytest.mark.parametrize("kind", ["dropout", "conv-twice", "conv-batch-norm"])
def test_chunked_is_averaged(kind, curvature):
    """With the masks of each batch's own draw."""
    parts, _ = batches(kind)
    found = []
    for chunked in (False, True):
        case = Case(kind, curvature=KINDS[curvature], solver=br.CG(4), damping=2.0, chunked=chunked)
        with case.operator(parts) as (operator, point, _):
            vector = torch.linspace(-1, 2, operator.size)
            product, mixed = operator.mv(vector), point.mixed_product(vector)
        found.append(
            {"product": product, **mixed, "gradient": point.gradient, "value": case(parts)[0]}
        )
    for name, averaged in found[0].items():
        assert relative_error(found[1][name], averaged) <= 1e-12, name


class _Watched(Curvature):
    """Counts the graphs that live while another one is built."""

    def __init__(self, curvature):
        self.curvature, self.alive, self.most, self.built = curvature, 0, 0, 0

    @property
    def closures(self):
        return self.curvature.closures

    def at(self, problem, number):
        point = self.curvature.at(problem, number)
        if isinstance(self.curvature, ExactHessian):
            graph = next(iter(point.curvature.point._gradients.values()))
        else:
            graph = point._model.outputs.graph
        assert graph.grad_fn is not None
        self.alive += 1
        self.built += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(graph, self._ended)
        return point

    def _ended(self):
        self.alive -= 1


@pytest.mark.parametrize("curvature", KINDS)
@pytest.mark.parametrize(
    ("options", "most", "built"),
    [({}, 3, 3), ({"chunked": True}, 1, 3 * (1 + 4 + 1)), ({"resample": True}, 1, 1 + 4 + 1)],
    ids=["averaged", "chunked", "resampled"],
)
def test_graphs_that_live_at_once(curvature, options, most, built):
    """One for the gradient, one for each product, one for the mixed product."""
    parts, _ = batches("conv")
    watched = []

    def make_watched(*functions):
        watched.append(_Watched(KINDS[curvature](*functions)))
        return watched[0]

    solver = br.Neumann(lr=0.01, max_steps=4)
    case = Case("conv", curvature=make_watched, solver=solver, damping=2.0, **options)
    case.nested(parts, case.batch)
    assert (watched[0].most, watched[0].built) == (most, built)
    assert watched[0].alive == 0


@pytest.mark.parametrize("curvature", ["hessian", "gauss-newton"])
@pytest.mark.parametrize("steps", [0, 2, 5])
def test_resampled_takes_the_next_batch_for_each_product(curvature, steps):
    """The series written out: gradient from batch 0, product j from batch j, the last one mixed."""
    parts, _ = batches("dropout")
    lr, damping = 0.05, 2.0
    case = Case(
        "dropout",
        curvature=KINDS[curvature],
        solver=br.Neumann(lr=lr, max_steps=steps),
        damping=damping,
        resample=True,
    )
    with case.problem(parts) as problem:
        points = [case.nested.method.curvature.at(problem, i) for i in range(3)]
        outer = problem.outer_gradients(problem.params)
        gradient = points[0].gradient
        term = points[0].layout.flatten(outer.params)
        total = lr * term
        for j in range(1, steps + 1):
            turn = points[j % 3].curvature
            term = term - lr * (turn.mv(term) + damping * term)
            total = total + lr * term
        mixed = points[(steps + 1) % 3].mixed_product(total)
        live = [n for n, _ in case.decay.named_parameters()]
    value, report = case(parts)
    expected = -torch.cat([mixed[name].reshape(-1) for name in mixed])
    assert len(live) == len(mixed)
    assert relative_error(value, expected) <= 1e-12
    assert report.inner_gradient_norm == pytest.approx(float(gradient.norm()), rel=1e-12)


def test_chunked_together_with_resampled_is_refused():
    with pytest.raises(br.InputError, match="choose one"):
        br.Implicit(chunked=True, resample=True)


@pytest.mark.parametrize("options", [{"chunked": True}, {"resample": True}])
def test_one_batch_is_one_batch(options):
    solver = br.Neumann(0.05, max_steps=5)
    case = Case("mlp", solver=solver, **options)
    assert relative_error(case()[0], Case("mlp", solver=solver)()[0]) == 0


@pytest.mark.parametrize("solver", [br.Dense(), br.CG(), br.MINRES(), br.Nystrom(2)])
def test_resampling_is_refused_where_products_must_be_of_one_matrix(solver):
    with pytest.raises(br.InputError, match="resample takes each product with another batch"):
        br.Implicit(solver, resample=True)


def test_resampling_has_no_error_bound():
    with pytest.raises(br.InputError, match="no error can be bounded"):
        br.Implicit(br.Neumann(), resample=True, error_bound=True)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("solver", [br.KFAC(), br.Woodbury(64)], ids=["kfac", "woodbury"])
def test_preconditioners_of_the_first_batch_serve_all(solver, chunked):
    parts, _ = batches("conv")
    dense, _ = solve("conv", "gauss-newton", parts)
    cg = br.CG(200, rtol=1e-12, preconditioner=solver)
    case = Case("conv", solver=cg, damping=2.0, chunked=chunked)
    value, report = case(parts)
    assert report.result in (br.Result.success, br.Result.not_stationary)
    assert relative_error(value, dense["value"]) <= 1e-9


def test_the_mean_gradient_is_the_inner_losses():
    parts, _ = batches("mlp")
    case = Case("mlp")
    with case.problem(parts) as problem:
        means = [inner_at(problem, i).gradient for i in range(3)]
        point = case.nested.method.point(problem)
        assert relative_error(point.gradient, torch.stack(means).mean(0)) <= 1e-12
        losses = [
            F.cross_entropy(case.model(x), y) + case.decay(case.model) for x, y in parts.items
        ]
        whole = torch.autograd.grad(sum(losses) / 3, list(case.model.parameters()))
    flat = torch.cat([g.reshape(-1) for g in whole])
    assert relative_error(point.gradient, flat) <= 1e-12
