"""The two sides of each layer's gradients, and Kronecker factors of them, by brute force."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br
from bestresponse._tree import Layout
from bestresponse.operators import (
    Factors,
    Kronecker,
    LayerFactors,
    OutputHessian,
    Outputs,
    PulledBack,
    layer_factors,
    squared_lengths,
)
from checks import relative_error
from curvatures import CLASSES, MODELS, jacobian, make, names_of


def recorded(model, x, loss=None):
    """Curvature of a loss of a model's outputs, with its layers recorded."""
    outputs = Outputs(
        lambda p, h: torch.func.functional_call(model, p, x), names_of(model), {}, record=True
    )
    loss = loss or (lambda f: (f**2).sum() / 2)
    return PulledBack(outputs, OutputHessian(loss, outputs.value))


def spans(model):
    """Where each parameter lies in the flat vector."""
    layout = Layout.of(names_of(model))
    ends = torch.tensor(layout.sizes).cumsum(0).tolist()
    return {
        name: slice(end - size, end)
        for name, size, end in zip(layout.names, layout.sizes, ends, strict=True)
    }


def explicit_gradients(part):
    """(columns, rows, *parameter's shape) of diagonal factors of either kind."""
    if not hasattr(part, "entry"):
        return part.gradients
    columns, pairs, width = part.gradients.shape
    found = torch.zeros(columns, part.rows, part.entries, width)
    for pair in range(pairs):
        found[:, part.row[pair], part.entry[pair]] += part.gradients[:, pair]
    return found


ROW_BY_ROW = [kind for kind in MODELS if kind not in ("batch-norm", "conv-batch-norm", "tied")]


@pytest.mark.parametrize("kind", ROW_BY_ROW)
def test_factors_give_the_gradient_of_each_output_of_each_row(kind):
    """Σ over positions g aᵀ, for every layer and its bias, is the row of the Jacobian."""
    model, (x, _) = make(kind)
    model.eval()  # without dropout
    point = recorded(model, x)
    slopes, value = jacobian(model, x)
    columns = [torch.zeros_like(value) for _ in range(CLASSES)]
    for c, column in enumerate(columns):
        column[:, c] = 1
    factors, where = layer_factors(point, columns), spans(model)
    for layer in factors.layers:
        explicit = torch.einsum("cgrpo,grpi->rcgoi", layer.gradients, layer.inputs)
        found = explicit.flatten(2)
        if layer.bias is not None:
            bias = explicit[..., -1].flatten(2)
            assert relative_error(bias, slopes[..., where[layer.bias]]) <= 1e-12
            found = explicit[..., :-1].flatten(2)
        assert relative_error(found, slopes[..., where[layer.weight]]) <= 1e-12
    for part in factors.diagonals:
        found = explicit_gradients(part).transpose(0, 1).flatten(2)
        assert relative_error(found, slopes[..., where[part.name]]) <= 1e-12
    covered = {n for layer in factors.layers for n in layer.names}
    covered |= {part.name for part in factors.diagonals}
    assert set(factors.uncovered) == set(where) - covered
    expected = {"lstm": 4, "attention": 4, "conv-1d": 2, "conv-weight-norm": 2}  # no known layers
    uncovered = [n for n in factors.uncovered if not n.endswith(("in_proj_bias",))]
    assert bool(uncovered) == (kind in expected), factors.uncovered


def test_a_tree_as_the_layers_matrix():
    model, (x, _) = make("conv-groups-stride")
    point = recorded(model, x)
    factors = layer_factors(point, list(point.middle.roots()))
    tree = names_of(model)
    matrix = factors.layers[0].as_matrix(tree)
    assert matrix.shape == (2, 2, 7)
    assert torch.equal(matrix[1, 0, :-1], tree["0.weight"][2].flatten())
    assert torch.equal(matrix[..., -1].flatten(), tree["0.bias"])


@pytest.mark.parametrize(
    "kind", ["linear", "mlp", "conv-groups-stride", "conv-same", "conv-padded", "conv-twice"]
)
def test_kronecker_factors_are_sums_over_rows_and_positions(kind):
    """A = mean of a aᵀ, G = sum of g gᵀ: as loops over patches, pixel by pixel."""
    model, (x, _) = make(kind)
    model.eval()
    point = recorded(model, x)
    columns = list(point.middle.roots())
    kronecker = Kronecker.of(point.outputs.layout, layer_factors(point, columns))
    for block, (layer, inputs, gradients) in zip(
        kronecker.blocks, _calls(model, x, columns), strict=True
    ):
        left, right = _brute_factors(layer, inputs, gradients)
        assert relative_error(block.left.dense(), left) <= 1e-12
        assert relative_error(block.right.dense(), right) <= 1e-12


def _calls(model, x, columns):
    """(layer, what came in, what is propagated back for each column), by hooks."""
    seen = []
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    handles = [
        layer.register_forward_hook(lambda m, args, out: seen.append((m, args[0], out)))
        for layer in layers
    ]
    value = model(x)
    for handle in handles:
        handle.remove()
    for layer, inputs, out in seen:
        gradients = [
            torch.autograd.grad(value, out, column, retain_graph=True)[0] for column in columns
        ]
        yield layer, inputs.detach(), torch.stack(gradients)


def _brute_factors(layer, inputs, gradients):
    if isinstance(layer, nn.Linear):
        vectors = [[(a, gs) for a, gs in zip(inputs, gradients.transpose(0, 1), strict=True)]]
    else:
        vectors = [list(_patches(layer, inputs, gradients, g)) for g in range(layer.groups)]
    lefts, rights = [], []
    for pairs in vectors:
        rows = [torch.cat([a, a.new_ones(1)]) if layer.bias is not None else a for a, _ in pairs]
        rights.append(sum(torch.outer(a, a) for a in rows) / len(rows))
        lefts.append(sum(torch.outer(g, g) for _, gs in pairs for g in gs))
    return torch.stack(lefts), torch.stack(rights)


def _patches(layer, inputs, gradients, group):
    """(patch, gradients by column) for each row and position, pixel by pixel."""
    kernel, stride, spread = layer.kernel_size, layer.stride, layer.dilation
    if layer.padding == "same":
        before = [spread[i] * (kernel[i] - 1) // 2 for i in (0, 1)]
    else:
        before = layer.padding
    channels, outs = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    height, width = inputs.shape[2:]
    for n in range(len(inputs)):
        for i in range(gradients.shape[3]):
            for j in range(gradients.shape[4]):
                patch = inputs.new_zeros(channels, *kernel)
                for p in range(kernel[0]):
                    for q in range(kernel[1]):
                        y = i * stride[0] + p * spread[0] - before[0]
                        x = j * stride[1] + q * spread[1] - before[1]
                        if 0 <= y < height and 0 <= x < width:
                            first = group * channels
                            patch[:, p, q] = inputs[n, first : first + channels, y, x]
                yield patch.flatten(), gradients[:, n, group * outs : (group + 1) * outs, i, j]


@pytest.mark.parametrize("bias", [True, False])
def test_one_linear_layer_under_mean_squares_is_exact(bias):
    model, x = nn.Linear(3, 5, bias=bias), torch.randn(7, 3)
    y = torch.randn(7, 5)
    point = recorded(model, x, lambda f: F.mse_loss(f, y))
    exact = point.as_matrix()
    found = Kronecker.of(
        point.outputs.layout, layer_factors(point, list(point.middle.roots()))
    ).as_matrix()
    assert relative_error(found, exact) <= 1e-12


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_with_one_position_is_exact(groups):
    model = nn.Sequential(nn.Conv2d(2, 4, 3, groups=groups), nn.Flatten())
    x = torch.randn(5, 2, 3, 3)
    point = recorded(model, x, lambda f: (f**2).mean())
    found = Kronecker.of(
        point.outputs.layout, layer_factors(point, list(point.middle.roots()))
    ).as_matrix()
    assert relative_error(found, point.as_matrix()) <= 1e-12


@pytest.mark.parametrize("kind", ["conv-twice", "embedded"])
def test_norms_and_embeddings_have_the_diagonal_of_the_matrix(kind):
    model, (x, y) = make(kind)
    model.eval()
    point = recorded(model, x, lambda f: F.cross_entropy(f, y))
    kronecker = Kronecker.of(point.outputs.layout, layer_factors(point, list(point.middle.roots())))
    diagonal, where = point.as_matrix().diagonal(), spans(model)
    assert len(kronecker.diagonals) == {"conv-twice": 2, "embedded": 3}[kind]
    for name, found in kronecker.diagonals.items():
        assert relative_error(found, diagonal[where[name]]) <= 1e-12
    if kind == "embedded":  # the padding row is never trained
        assert not kronecker.diagonals["table.weight"][2].any()
        assert kronecker.diagonals["table.weight"][0].any()


def test_a_scale_of_zero_hides_nothing():
    """Scales start at zero in many residual networks."""
    model, (x, y) = make("embedded")
    with torch.no_grad():
        model.norm.weight[1:3] = 0
    point = recorded(model, x, lambda f: F.cross_entropy(f, y))
    kronecker = Kronecker.of(point.outputs.layout, layer_factors(point, list(point.middle.roots())))
    diagonal = point.as_matrix().diagonal()[spans(model)["norm.weight"]]
    assert relative_error(kronecker.diagonals["norm.weight"], diagonal) <= 1e-12


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, lambda n: nn.GroupNorm(3, n)])
@pytest.mark.parametrize("frozen", ["", "weight", "bias"])
def test_norms_of_images_and_frozen_halves(norm, frozen):
    torch.manual_seed(0)
    model = nn.Sequential(norm(6), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(6))
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.add_(0.5 * torch.rand_like(buffer))
    model.eval()
    if frozen:
        getattr(model[0], frozen).requires_grad_(False)
    point = recorded(model, torch.randn(4, 6, 2, 2))
    factors = layer_factors(point, list(point.middle.roots()))
    diagonals = Kronecker.of(point.outputs.layout, factors).diagonals
    exact, where = point.as_matrix().diagonal(), spans(model)
    known = {"": ["0.weight", "0.bias"], "weight": [], "bias": ["0.weight"]}[frozen]
    assert list(diagonals) == known
    for name, found in diagonals.items():
        assert relative_error(found, exact[where[name]]) <= 1e-12


@pytest.mark.parametrize("kind", ROW_BY_ROW)
def test_squared_lengths_are_the_diagonal_of_the_gram_matrix(kind):
    """With another D for every parameter, biases included."""
    model, (x, _) = make(kind)
    model.eval()
    point = recorded(model, x)
    factors = layer_factors(point, list(point.middle.roots(ordered=True)))
    where = spans(model)
    diagonal = {name: 0.5 + i for i, name in enumerate(where)}
    covered = set(where) - set(factors.uncovered)
    inverse = torch.cat(
        [torch.full((s.stop - s.start,), (n in covered) / diagonal[n]) for n, s in where.items()]
    )
    slopes, value = jacobian(model, x)
    expected = (slopes**2 * inverse).sum(-1).T  # the outputs' curvature is the identity
    found = squared_lengths(factors, diagonal)
    # eigenvectors of the identity come in any order
    assert found.shape == expected.shape == (CLASSES, len(value))
    assert relative_error(found.sort(0).values, expected.sort(0).values) <= 1e-12


@pytest.mark.parametrize("kind", ["conv-twice", "embedded"])
def test_the_gram_matrix_of_entries(kind):
    """Of some terms in any order, one of them twice, against gradients written out."""
    model, (x, _) = make(kind, rows=40)
    model.eval()
    point = recorded(model, x)
    factors = layer_factors(point, list(point.middle.roots()))
    rows = torch.tensor([3, 0, 39, 3, 3, 17, 8, *range(30)])
    terms = torch.stack([torch.arange(len(rows)) % CLASSES, rows], 1)
    terms = torch.cat([terms, terms[:1]])
    for part in factors.diagonals:
        gradients = explicit_gradients(part)[terms[:, 0], terms[:, 1]].flatten(1)
        assert relative_error(part.gram(terms), gradients @ gradients.T) <= 1e-12


def test_a_large_table_is_never_written_out_for_each_row():
    """10⁵ entries, 64 rows: 10⁹ numbers if it were."""
    table, x = nn.Embedding(10**5, 64), torch.randint(10**5, (64, 3))
    model = nn.Sequential(table, nn.Flatten(), nn.Linear(192, 2))
    point = recorded(model, x)
    (part,) = layer_factors(point, list(point.middle.roots())).diagonals
    assert part.gradients.numel() <= 2 * 64 * 3 * 64
    diagonal = part.diagonal()
    assert diagonal.shape == table.weight.shape
    assert int((diagonal.sum(1) > 0).sum()) == len(x.unique())


class _Shared(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        if what == "bias":
            self.b.bias = self.a.bias
        self.twice = what == "calls"

    def forward(self, x):
        return (self.a if self.twice else self.b)(torch.tanh(self.a(x)))


@pytest.mark.parametrize(("what", "name"), [("bias", "a.bias"), ("calls", "'a.weight', 'a.bias'")])
def test_shared_parameters_are_refused_by_name(what, name):
    model = _Shared(what)
    if what == "calls":
        del model.b
        model.b = None
    point = recorded(model, torch.randn(3, 4))
    with pytest.raises(br.InputError, match=f"{name}.* used by several layers"):
        layer_factors(point, list(point.middle.roots()))


def test_tied_weights_are_refused_by_name():
    model, (x, _) = make("tied")
    point = recorded(model, x)
    with pytest.raises(br.InputError, match=r"table\.weight.* is used by several layers"):
        layer_factors(point, list(point.middle.roots()))


def test_a_pass_without_gradients_is_no_second_use():
    """A teacher's outputs, taken of the same layer."""

    class Distilled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            with torch.no_grad():
                teacher = self.layer(x + 1)
            return self.layer(x) - teacher

    model = Distilled()
    point = recorded(model, torch.randn(5, 4))
    factors = layer_factors(point, list(point.middle.roots()))
    found = Kronecker.of(point.outputs.layout, factors).as_matrix()
    assert relative_error(found, point.as_matrix()) <= 1e-12


@pytest.mark.parametrize("kind", ["in-place", "conv-in-place"])
def test_activations_in_place_do_not_hide_what_a_layer_gave(kind):
    model, (x, _) = make(kind)
    point = recorded(model, x)
    found = Kronecker.of(
        point.outputs.layout, layer_factors(point, list(point.middle.roots()))
    ).as_matrix()
    next(m for m in model if isinstance(m, nn.LeakyReLU)).inplace = False
    point = recorded(model, x)
    expected = Kronecker.of(
        point.outputs.layout, layer_factors(point, list(point.middle.roots()))
    ).as_matrix()
    assert torch.equal(found, expected)


# The algebra of Kronecker blocks, on factors that come from no model.


def random_factors(groups, outs, ins, bias, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    inputs = draw(groups, 30, 1, ins)
    if bias:
        inputs = torch.cat([inputs, torch.ones(groups, 30, 1, 1)], -1)
    layer = LayerFactors("w", "b" if bias else None, inputs, draw(2, groups, 30, 1, outs) / 8)
    tree = {"w": torch.zeros(groups * outs, ins), "rest": torch.zeros(3)}
    if bias:
        tree["b"] = torch.zeros(groups * outs)
    return Layout.of(tree), Factors((layer,), (), ("rest",))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("rank", [None, 2, 4])
@pytest.mark.parametrize("damping", [0.3, {"w": 0.2, "b": 9.0, "rest": 0.7}], ids=["one", "named"])
def test_the_inverse_is_one(bias, groups, rank, damping):
    """Complete, truncated on one side (rank 4), and on both (rank 2)."""
    layout, factors = random_factors(groups, 13, 17, bias)
    operator = Kronecker.of(layout, factors, rank)
    (block,) = operator.blocks
    sides = block.left.is_complete, block.right.is_complete
    assert sides == {None: (True, True), 4: (True, False), 2: (False, False)}[rank]
    inverse = operator.inverse(damping).as_matrix()
    by_name = damping if isinstance(damping, dict) else dict.fromkeys(layout.names, damping)
    # the bias goes with its weight
    numbers = {"w": by_name["w"], "b": by_name.get("w"), "rest": by_name["rest"]}
    diagonal = torch.cat(
        [torch.full((s,), numbers[n]) for n, s in zip(layout.names, layout.sizes, strict=True)]
    )
    product = (operator.as_matrix() + torch.diag(diagonal)) @ inverse
    assert float((product - torch.eye(layout.size)).abs().max()) <= 1e-10


def test_truncation_keeps_the_leading_pairs_and_the_trace():
    layout, factors = random_factors(1, 4, 60, False)
    spectrum = torch.cat([torch.tensor([50.0, 20.0, 10.0]), torch.full((57,), 0.1)])
    basis = torch.linalg.qr(torch.randn(60, 60))[0]
    inputs = (basis * (60 * spectrum).sqrt()).T.reshape(1, 60, 1, 60)
    layer = LayerFactors(
        "w", None, inputs, factors.layers[0].gradients[:, :, :1].expand(2, 1, 60, 1, 4)
    )
    (block,) = Kronecker.of(layout, Factors((layer,), (), ("rest",)), 5).blocks
    assert block.right.vectors.shape[-1] == 15
    assert relative_error(block.right.values.flip(-1)[0, :3], spectrum[:3]) <= 1e-8
    assert (
        relative_error(block.right.dense().diagonal(dim1=1, dim2=2).sum(), spectrum.sum()) <= 1e-10
    )
    assert relative_error(block.right.tail, torch.tensor([0.1])) <= 1e-6


def test_state_and_back():
    layout, factors = random_factors(2, 3, 4, True)
    operator = Kronecker.of(layout, factors, 2)
    other = Kronecker.from_state(layout, operator.state())
    vector = torch.randn(layout.size)
    assert torch.equal(operator.mv(vector), other.mv(vector))
    assert torch.equal(operator.inverse(0.1).mv(vector), other.inverse(0.1).mv(vector))


def test_what_is_not_finite_stays_so_instead_of_raising():
    layout, factors = random_factors(1, 3, 4, True)
    factors.layers[0].inputs[0, 0] = torch.nan
    for rank in (None, 1):
        inverse = Kronecker.of(layout, factors, rank).inverse(1.0)
        assert not inverse.mv(torch.ones(layout.size)).isfinite().all()


def test_half_precision_weights_and_autocast_have_factors_in_single_precision():
    torch.set_default_dtype(torch.float32)
    model, (x, _) = make("conv-twice")
    exact = _without_dropout(model, x)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = _without_dropout(model, x)
    half = _without_dropout(model.bfloat16(), x.bfloat16())
    vector = torch.randn(exact.size)
    for other in (rounded, half):
        product = other.inverse(0.5).mv(vector)
        assert product.dtype == torch.float32
        assert relative_error(product, exact.inverse(0.5).mv(vector)) <= 0.1


def _without_dropout(model, x):
    model.eval()
    point = recorded(model, x)
    return Kronecker.of(point.outputs.layout, layer_factors(point, list(point.middle.roots())))
