"""Woodbury: the exact inverse with all terms, a strong preconditioner with the largest ones."""

import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br
from bestresponse.solvers._solve import linear_solve
from checks import relative_error
from curvatures import CLASSES, ROWS, Case, cross_entropy, gauss_newton, make, square, summed

ALL = br.Woodbury(rank=10**6)
# rows that do not see each other, and layers that are all known
EXACT = ["linear", "mlp", "dropout", "in-place", "conv", "conv-groups-stride", "conv-same",
         "conv-padded", "conv-twice", "conv-in-place", "embedded"]  # fmt: skip


def per_tensor(case):
    """Another constant decay for each parameter, biases included."""
    with torch.no_grad():
        for i, raw in enumerate(case.decay.parameters()):
            raw.fill_(-1.0 + 0.5 * i)


def even(kind, *args, **options):
    case = Case(kind, *args, penalized=False, **options)
    per_tensor(case)
    return case


@pytest.mark.parametrize("loss", [cross_entropy, square, summed])
@pytest.mark.parametrize("kind", EXACT)
def test_with_all_terms_it_is_the_inverse(kind, loss):
    case = even(kind, loss, damping=0.01)
    if kind in ("dropout", "conv-twice"):
        case.model.eval()  # the masks of a part of the rows are others
    with case.operator() as (operator, _, _):
        matrix, vectors = operator.as_matrix(), torch.randn(3, operator.size)
        for vector in vectors:
            solution = linear_solve(operator, vector, ALL)
            assert relative_error(solution.value, torch.linalg.solve(matrix, vector)) <= 1e-8
            assert solution.stats.relative_residual <= 1e-8
    assert solution.stats.uncovered == ()


def test_outputs_of_one_number_a_row():
    torch.manual_seed(0)
    x, y = torch.randn(5, 3), torch.rand(5)

    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(3, 1)

        def forward(self, x):
            return self.body(x)[:, 0]

    model = Single()
    loss = lambda f, x, y: F.binary_cross_entropy_with_logits(f, y)  # noqa: E731
    decay = br.hyper.WeightDecay(model, per="tensor", init=0.3, biases=True)
    predict, penalty = lambda x, y: model(x), lambda: decay(model)
    values = []
    for solver in (br.Dense(), ALL):
        nested = br.Nested(
            params=model,
            hyper=decay,
            inner=lambda x, y: loss(model(x), x, y) + decay(model),
            outer=lambda x, y: loss(model(x), x, y),
            method=br.Implicit(solver, curvature=br.GaussNewton(predict, loss, penalty)),
        )
        outer, _ = nested((x, y), (x, y))
        values.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(
            outer, list(decay.parameters()))]))  # fmt: skip
    assert relative_error(values[1], values[0]) <= 1e-8


@pytest.mark.parametrize("rank", [1, 4, 9])
def test_with_some_terms_it_inverts_the_largest_of_them(rank):
    """Against the matrix of the `rank` longest columns, written out."""
    case = even("conv", square, damping=0.01)
    with case.operator() as (operator, point, _):
        size = operator.size
        diagonal = (operator.as_matrix() - point._model.as_matrix()).diagonal()
        vector = torch.randn(size)
        found = linear_solve(operator, vector, br.Woodbury(rank=rank)).value
        outputs = point._model.outputs
        roots = point._model.middle.roots(ordered=True)
        columns = []
        for c in range(CLASSES):
            for n in range(ROWS):
                cotangent = torch.zeros_like(outputs.value)
                cotangent[n] = roots[c, n]
                columns.append(outputs.vjp(cotangent))
    columns = torch.stack(columns)
    lengths = (columns**2 / diagonal).sum(1)
    # under mean squares every row has the same curvature, and every candidate is looked at: twice
    # the rank of them, whose order among equals is anyone's, so all must be candidates
    candidates = 2 * rank >= len(columns)
    kept = columns[lengths.topk(rank).indices]
    expected = torch.linalg.solve(torch.diag(diagonal) + kept.T @ kept, vector)
    if candidates:
        assert relative_error(found, expected) <= 1e-8
    image = found * diagonal  # what is found inverts D plus some `rank` of the terms
    explained = torch.linalg.lstsq(columns.T, (vector - image)[:, None])
    assert float((columns.T @ explained.solution - (vector - image)[:, None]).norm()) <= 1e-8


@pytest.mark.parametrize("rank", [1, 8, 300])
@pytest.mark.parametrize(
    "kind", ["mlp", "dropout", "conv-twice", "embedded", "lstm", "attention", "conv-weight-norm"]
)
def test_as_a_preconditioner_it_converges_to_the_dense_solve(kind, rank):
    values = []
    for solver in (br.Dense(), br.CG(600, rtol=1e-11, preconditioner=br.Woodbury(rank))):
        value, report = Case(kind, solver=solver, damping=0.3)()
        values.append(value)
    assert report.result in (br.Result.success, br.Result.not_stationary)
    assert relative_error(values[1], values[0]) <= 1e-8


@pytest.mark.parametrize("loss", [cross_entropy, summed])
def test_few_products_where_weights_outnumber_the_terms(loss):
    """A network that fits its data: 24 rows, 10 times as many weights."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 30), nn.Tanh(), nn.Linear(30, CLASSES))
    batch = (torch.randn(24, 10), torch.randint(CLASSES, (24,)))
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    for _ in range(200):
        optimizer.zero_grad()
        F.cross_entropy(model(batch[0]), batch[1]).backward()
        optimizer.step()
    assert float(F.cross_entropy(model(batch[0]), batch[1]).detach()) <= 0.01
    products = {}
    for name, preconditioner in {"plain": None, "woodbury": br.Woodbury(72)}.items():
        solver = br.CG(1000, rtol=1e-8, preconditioner=preconditioner)
        case = Case(
            model=model, batch=batch, loss=loss, solver=solver, decay=1e-5, damping=0.0,
            penalized=False,
        )  # fmt: skip
        products[name] = case()[1].products
    assert products["woodbury"] <= 3
    assert products["plain"] >= 10 * products["woodbury"]


def test_uncovered_parameters_are_divided_by_the_diagonal():
    case = even("lstm", damping=0.4)
    with case.operator() as (operator, point, _):
        vector = torch.randn(operator.size)
        solution = linear_solve(operator, vector, ALL)
        diagonal = (operator.as_matrix() - point._model.as_matrix()).diagonal()
        found = point.layout.unflatten(solution.value)
        plain = point.layout.unflatten(vector / diagonal)
        dense = operator.as_matrix()[-18:, -18:]
    assert solution.stats.uncovered == tuple(
        f"body.{side}_{end}_l0" for side in ("weight", "bias") for end in ("ih", "hh")
    )
    for name, value in found.items():
        if name in solution.stats.uncovered:
            assert relative_error(value, plain[name]) <= 1e-12
    head = torch.cat([found["head.weight"].reshape(-1), found["head.bias"]])
    assert relative_error(head, torch.linalg.solve(dense, vector[-18:])) <= 1e-8


def test_layers_that_flatten_the_rows_away_are_left_out():
    """Positions beside rows in the first dimension: no term belongs to one row of the layer."""

    class Flattening(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(4, 5), nn.Linear(5, CLASSES)

        def forward(self, x):
            hidden = torch.tanh(self.body(x.reshape(-1, 4))).reshape(len(x), -1, 5)
            return self.head(hidden.mean(1))

    torch.manual_seed(0)
    batch = (torch.randn(ROWS, 2, 4), torch.randint(CLASSES, (ROWS,)))
    values = []
    for solver in (br.Dense(), br.CG(100, rtol=1e-11, preconditioner=ALL)):
        torch.manual_seed(1)
        value, report = Case(model=Flattening(), batch=batch, solver=solver)()
        values.append(value)
    assert report.stats.uncovered == ("body.weight", "body.bias")
    assert relative_error(values[1], values[0]) <= 1e-8


class Swapped(nn.Module):
    """Positions first, and as many of them as rows: nothing but the numbers tells."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 5), nn.Linear(5, CLASSES)

    def forward(self, x):
        hidden = torch.tanh(self.body(x.transpose(0, 1))).transpose(0, 1)
        return self.head(hidden.mean(1))


class TwiceUsed(nn.Module):
    """A weight of a layer that is also used past it."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.head(torch.tanh(self.body(x) + x @ self.body.weight))


@pytest.mark.parametrize(
    ("model", "shape", "words"),
    [
        (Swapped, (ROWS, ROWS, 4), "Woodbury needs rows that do not see each other"),
        (TwiceUsed, (ROWS, 4), "'body.weight' is used by several layers or calls"),
    ],
    ids=["positions-first", "used-twice"],
)
def test_terms_that_are_not_the_models_are_refused(model, shape, words):
    """A wrong Gram matrix may make the inverse indefinite without a word."""
    batch = (torch.randn(shape), torch.randint(CLASSES, (ROWS,)))
    case = Case(model=model(), batch=batch, solver=ALL)
    with pytest.raises(br.InputError, match=words):
        case()


def test_a_model_without_a_known_layer_is_refused():
    predict = lambda p, h, x: x @ p["w"]  # noqa: E731
    loss = lambda f, p, h, x: f.square().mean()  # noqa: E731
    method = br.Implicit(ALL, damping=0.1, curvature=br.GaussNewton(predict, loss))
    inner = lambda p, h, x: loss(predict(p, h, x), p, h, x)  # noqa: E731
    outer = lambda p, h: p["w"].sum() * h["a"]  # noqa: E731
    with pytest.raises(br.InputError, match=r"knows no layer of this model; use br\.Nystrom"):
        br.hypergradient(
            inner,
            outer,
            {"w": torch.ones(3)},
            {"a": torch.tensor(1.0)},
            method,
            (torch.ones(4, 3),),
        )


@pytest.mark.parametrize("kind", ["conv", "conv-in-place"])
def test_wrong_forward_derivatives_do_not_get_in(kind, monkeypatch):
    """The part's Jv is tested before it is used."""
    from bestresponse.operators import _outputs

    right = _outputs.Outputs._jvp_forward
    taken = []

    def wrong(self, vector):
        taken.append(1)
        return 1.01 * right(self, vector)

    monkeypatch.setattr(_outputs.Outputs, "_jvp_forward", wrong)
    case = even(kind, damping=0.01)
    with case.operator() as (operator, _, _):
        vector = torch.randn(operator.size)
        value = linear_solve(operator, vector, ALL).value
        matrix = gauss_newton(case.model, cross_entropy, case.batch)
        matrix = matrix + (operator.as_matrix() - operator.terms()[0][1].as_matrix())
    assert bool(taken) == (kind == "conv")
    assert relative_error(value, torch.linalg.solve(matrix, vector)) <= 1e-8


ROUNDED = {
    "mlp": (lambda: nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 5)), (40, 20)),
    "conv": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(256, 5)
        ),
        (20, 2, 8, 8),
    ),
}


@pytest.mark.parametrize("kind", ROUNDED)
def test_autocast(kind):
    """Products with G in 8 bits must not outgrow the Gram matrix, however small D is."""
    torch.set_default_dtype(torch.float32)
    build, shape = ROUNDED[kind]
    batch = (torch.randn(shape), torch.randint(5, shape[:1]))
    solver = br.CG(6, preconditioner=ALL)
    with torch.autocast("cpu", torch.bfloat16):
        _, report = Case(
            model=build(), batch=batch, loss=summed, solver=solver, damping=1e-2, decay=1e-7
        )()
    assert br.Result.preconditioner_indefinite not in report.warnings
    assert report.products == 6


def test_terms_are_kept_for_as_many_calls_as_asked_and_survive_a_file():
    def made(seed=0):
        solver = br.CG(3, preconditioner=br.Woodbury(4, refresh=3))
        return Case("mlp", solver=solver, damping=0.1, seed=seed)

    def terms(case):
        memory = case.nested.state_dict()["memory"]["preconditioner"]
        return memory["age"], memory["built"]["rows"], memory["built"]["terms"]

    case, ages = made(), []
    for step in range(4):
        value, _ = case()
        ages.append(terms(case)[0])
        if step == 1:
            file = io.BytesIO()
            torch.save(case.nested.state_dict(), file)
        if step == 2:
            third = value
    assert ages == [1, 2, 3, 1]
    file.seek(0)
    other = made(seed=5)
    other.nested.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other()[0], third)
    assert terms(other)[0] == 3
    # rows of a smaller batch are chosen anew
    x, y = case.batch
    case.nested((x[:2], y[:2]), case.batch)
    assert terms(case)[0] == 1
    assert int(terms(case)[1].max()) <= 1


def only_biases(model):
    return br.select(model, lambda name: name.endswith("bias"))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: br.Woodbury(0), r"Woodbury\(rank=0\) must be 1 or more"),
        (lambda: br.Woodbury(refresh=0), r"refresh=0\) must be 1 or more"),
        (lambda: br.Woodbury(damping=-0.1), r"damping=-0.1\) is negative"),
        (
            lambda: Case("mlp", solver=ALL, biases=False, damping=0.0, params=only_biases)(),
            "Woodbury has no damping: the method's is zero",
        ),
        (lambda: Case("tied", solver=ALL)(), r"'table\.weight'.* is used by several layers"),
        (
            lambda: Case("mlp", solver=ALL, curvature=lambda *functions: None)(),
            "Woodbury needs to see the model's layers",
        ),
    ],
)
def test_refusals(act, message):
    with pytest.raises(br.InputError, match=message):
        act()


def test_its_own_damping_is_added_for_the_preconditioner_alone():
    case = even("mlp", damping=0.01)
    with case.operator() as (operator, _, _):
        vector, identity = torch.randn(operator.size), torch.eye(operator.size)
        found = linear_solve(operator, vector, br.Woodbury(10**6, damping=0.5)).value
        expected = torch.linalg.solve(operator.as_matrix() + 0.5 * identity, vector)
    assert relative_error(found, expected) <= 1e-8


def test_what_is_not_finite_is_said_by_the_result():
    case = Case("mlp", solver=ALL, throw=False)
    with torch.no_grad():
        case.model[0].weight[0, 0] = torch.inf
    _, report = case.nested(case.batch, case.batch)
    assert report.result is br.Result.nonfinite


def test_the_batch_is_used_as_it_is_where_it_cannot_be_cut():
    model, (x, y) = make("mlp")
    decay = br.hyper.WeightDecay(model, per="tensor", init=0.1, biases=True)
    predict, loss = lambda: model(x), lambda f: F.cross_entropy(f, y)
    values = []
    for solver in (br.Dense(), br.CG(100, rtol=1e-11, preconditioner=br.Woodbury(2))):
        nested = br.Nested(
            params=model,
            hyper=decay,
            inner=lambda: loss(predict()) + decay(model),
            outer=lambda: loss(predict()),
            method=br.Implicit(
                solver, curvature=br.GaussNewton(predict, loss, lambda: decay(model))
            ),
        )
        outer, _ = nested()
        values.append(torch.stack(torch.autograd.grad(outer, list(decay.parameters()))))
    assert relative_error(values[1], values[0]) <= 1e-8
