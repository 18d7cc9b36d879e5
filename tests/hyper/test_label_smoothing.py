"""Label smoothing against PyTorch's own, and against its derivative."""

import pytest
import torch
import torch.nn.functional as F

import bestresponse as br
from bestresponse.hyper import LabelSmoothing


@pytest.mark.parametrize("strength", [1e-6, 0.1, 0.5, 0.999])
def test_it_is_pytorchs(strength):
    torch.manual_seed(0)
    logits, labels = 3 * torch.randn(7, 4), torch.randint(4, (7,))
    expected = F.cross_entropy(logits, labels, reduction="none", label_smoothing=strength)
    torch.testing.assert_close(LabelSmoothing(strength)(logits, labels), expected)


def test_its_slope_is_the_difference_of_the_two_targets():
    """∂/∂ε = mean over classes of −log p, less −log p of the right one; times ε(1 − ε)."""
    torch.manual_seed(1)
    logits, labels = torch.randn(5, 3), torch.randint(3, (5,))
    smoothing = LabelSmoothing(0.2)
    smoothing(logits, labels).sum().backward()
    logs = F.log_softmax(logits, 1)
    slope = (logs.gather(1, labels[:, None])[:, 0] - logs.mean(1)).sum()
    torch.testing.assert_close(smoothing.raw.grad, 0.2 * 0.8 * slope)


@pytest.mark.parametrize("strength", [0.0, 1.0, -0.1, float("nan")])
def test_refusals(strength):
    with pytest.raises(br.InputError, match="between 0 and 1"):
        LabelSmoothing(strength)
