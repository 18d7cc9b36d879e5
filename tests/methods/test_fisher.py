"""The Fisher information: in expectation the Gauss-Newton matrix, and per example by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Bernoulli, Categorical, Normal

import bestresponse as br
from bestresponse.methods._curvature import inner_at
from checks import assert_same, relative_error, snapshot
from curvatures import CLASSES, ROWS, Case, cross_entropy, jacobian, names_of

categorical = lambda f: Categorical(logits=f)  # noqa: E731
normal = lambda f: Normal(f, 1.0)  # noqa: E731


def half_square(outputs, x, y):
    """The negative log-likelihood of unit normals, but for a constant."""
    return 0.5 * (outputs - F.one_hot(y, CLASSES)).square().sum(1).mean()


def fisher(distribution, **settings):
    """Makes the curvature of a `Case`."""
    return lambda predict, loss, penalty: br.Fisher(predict, distribution, penalty, **settings)


def case(
    kind="mlp", distribution=categorical, loss=cross_entropy, draws=1, targets=None, **options
):
    return Case(kind, loss, curvature=fisher(distribution, draws=draws, targets=targets), **options)


@pytest.mark.parametrize(
    ("distribution", "loss"),
    [(categorical, cross_entropy), (normal, half_square)],
    ids=["categorical", "normal"],
)
def test_in_expectation_it_is_the_gauss_newton_matrix(distribution, loss):
    """Entry by entry within five standard errors, which the draws themselves tell."""
    draws = 2000
    made = case("mlp", distribution, loss, draws)
    with made.operator() as (operator, point, seed):
        matrix, scores = operator.as_matrix(), point._model.middle.scores
    exact = Case("mlp", loss)
    with exact.operator() as (operator, _, _):
        expected = operator.as_matrix()
    assert scores.shape == (draws, ROWS, CLASSES)
    slopes, _ = jacobian(made.model, made.batch[0], seed)
    gradients = torch.einsum("dnk,nkp->dnp", scores, slopes)  # ∇ log p, by hand
    one_draw = torch.einsum("dnp,dnq->dpq", gradients[:200], gradients[:200]) / ROWS
    error = one_draw.std(0) / draws**0.5
    gap = (matrix - expected).abs()
    assert bool((gap <= 5 * error + 1e-12).all())
    assert float((gap / (error + 1e-12)).mean()) >= 0.1  # the errors are no wider than they say
    assert relative_error(matrix, expected) <= 0.05


def test_the_matrix_is_the_mean_of_outer_products_of_its_scores():
    made = case("conv-twice", draws=3)
    with made.operator() as (_, point, seed):
        matrix, scores = point._model.as_matrix(), point._model.middle.scores
    slopes, _ = jacobian(made.model, made.batch[0], seed)
    gradients = torch.einsum("dnk,nkp->dnp", scores, slopes).flatten(0, 1)
    assert relative_error(matrix, gradients.T @ gradients / len(gradients)) <= 1e-10


def test_the_empirical_fisher_is_the_sum_over_examples():
    made = case("mlp", targets=lambda x, y: y)
    with made.operator() as (_, point, _):
        matrix = point._model.as_matrix()
    expected = torch.zeros_like(matrix)
    parameters = [dict(made.model.named_parameters())[n] for n in names_of(made.model)]
    for x, y in zip(*made.batch, strict=True):
        gradient = torch.autograd.grad(F.cross_entropy(made.model(x[None]), y[None]), parameters)
        flat = torch.cat([g.reshape(-1) for g in gradient])
        expected += torch.outer(flat, flat) / ROWS
    assert relative_error(matrix, expected) <= 1e-12


def test_one_number_a_row():
    """Outputs of shape (rows,)."""
    torch.manual_seed(0)
    x, y = torch.randn(5, 3), torch.tensor([0.0, 1, 1, 0, 1])
    predict = lambda p, h, x, y: x @ p["w"]  # noqa: E731
    inner = lambda p, h, x, y: (  # noqa: E731
        F.binary_cross_entropy_with_logits(x @ p["w"], y) + h["l"] * (p["w"] ** 2).sum()
    )
    penalty = lambda p, h: h["l"] * (p["w"] ** 2).sum()  # noqa: E731
    curvature = br.Fisher(
        predict, lambda f: Bernoulli(logits=f), penalty, targets=lambda p, h, x, y: y
    )
    params, hyper = {"w": torch.randn(3)}, {"l": torch.tensor(0.2)}
    outer = lambda p, h: p["w"].sum()  # noqa: E731
    method = br.Implicit(br.Dense(), curvature=curvature)
    value = br.hypergradient(inner, outer, params, hyper, method, (x, y)).value["l"]
    scores = y - torch.sigmoid(x @ params["w"])
    matrix = (x * scores[:, None] ** 2).T @ x / 5 + 0.4 * torch.eye(3)
    assert (
        relative_error(value, -2 * params["w"] @ torch.linalg.solve(matrix, torch.ones(3))) <= 1e-12
    )


def test_gradient_and_mixed_product_are_the_inner_losses_own():
    made = case("mlp")
    with made.operator() as (_, point, _), made.problem() as problem:
        whole, vector = inner_at(problem, 0), torch.randn(len(point.gradient))
        assert torch.equal(point.gradient, whole.gradient)
        assert_same(point.mixed_product(vector), whole.mixed_product(vector))


def scores_of(made):
    with made.operator() as (_, point, _):
        return point._model.middle.scores


def test_draws_leave_the_global_stream_alone_and_follow_the_seed():
    made = case("dropout", draws=2)
    before = snapshot(made.model)
    one, again = scores_of(made), scores_of(made)
    assert torch.equal(one, again)
    made.nested(made.batch, made.batch)
    assert_same(before, snapshot(made.model))
    torch.randn(3)  # the global stream does not matter
    assert not torch.equal(scores_of(made), one)
    assert torch.equal(scores_of(case("dropout", draws=2)), one)
    assert not torch.equal(scores_of(case("dropout", draws=2, seed=1)), one)
    assert not torch.equal(one[0], one[1])


@pytest.mark.parametrize("targets", [None, lambda x, y: y], ids=["drawn", "observed"])
def test_a_part_of_the_rows_keeps_its_targets(targets):
    """Others would be another matrix, and its share of this one a random number."""
    made = case("conv", targets=targets, draws=1 if targets else 3)
    rows = torch.tensor([1, 2, 5])
    with made.operator() as (_, point, seed):
        model = point._model
        part = model.on_rows(rows)
        assert torch.equal(part.middle.scores, model.middle.scores[:, rows])
        assert model.share(part, rows) == pytest.approx(len(rows) / ROWS)
        matrix = part.as_matrix()
    slopes, _ = jacobian(made.model, made.batch[0], seed)
    gradients = torch.einsum("dnk,nkp->dnp", model.middle.scores, slopes)[:, rows].flatten(0, 1)
    assert relative_error(matrix, gradients.T @ gradients / len(gradients)) <= 1e-10


@pytest.mark.parametrize("solver", [br.KFAC(), br.Woodbury(30)], ids=["kfac", "woodbury"])
def test_as_curvature_of_a_preconditioned_solve(solver):
    values = []
    for chosen in (br.Dense(), br.CG(300, rtol=1e-12, preconditioner=solver)):
        value, report = case("mlp", draws=2, solver=chosen, damping=0.05)()
        assert not report.result.is_error
        values.append(value)
    assert relative_error(values[1], values[0]) <= 1e-8
