"""A context for any structure: the same guarantees, for each context."""

import pytest
import torch

import bestresponse as br
from bestresponse import jacnet as jn

STRUCTURES = {
    "convex": lambda: jn.ConvexGradient(2),
    "triangular": lambda: jn.Triangular(2),
    "bilipschitz": lambda: jn.BiLipschitz(2),
    "composition": lambda: jn.Compose([jn.BiLipschitz(2), jn.Rotation(2)]),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_it_is_the_structure_moved_about(name):
    f = jn.Conditioned(STRUCTURES[name](), context=3)
    x, c = torch.randn(6, 2), torch.randn(6, 3)
    before, after = f.shifts(c).split([2, 2], -1)
    assert torch.equal(f(x, c), f.structure(x + before) + after)
    assert not torch.allclose(f(x, c), f(x, -c))
    assert (f.inverse(f(x, c), c).value - x).abs().max() < 1e-10
    rows = [torch.autograd.functional.jacobian(lambda z, i=i: f(z, c[i]), x[i]) for i in range(6)]
    assert (f.jacobian(x, c) - torch.stack(rows)).abs().max() < 1e-11
    expected = torch.linalg.slogdet(torch.stack(rows)).logabsdet
    assert (f.log_abs_det(x, c) - expected).abs().max() < 1e-10
    assert f.certificate() == f.structure.certificate()


def test_contexts_are_asked_for():
    f = jn.Conditioned(jn.ConvexGradient(2), context=3)
    cases = (
        (None, "got no context"),
        (torch.ones(5, 2), r"context of shape \(5, 2\)"),
        (torch.tensor(1.0), "needs a context"),
        (torch.ones(4, 3), "one for each context"),
    )
    for context, words in cases:
        with pytest.raises(br.InputError, match=words):
            f(torch.ones(5, 2), context)
    with pytest.raises(br.InputError, match="expand the points"):
        jn.Monotone1d(context=2).derivative(torch.zeros(1), torch.ones(5, 2))
