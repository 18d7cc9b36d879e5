"""The handwritten digits that scikit-learn brings along: real data without a download."""

import torch

from bestresponse.data._dataset import Dataset

_SOURCE = (
    "scikit-learn's bundled digits, the test part of UCI's Optical Recognition of Handwritten "
    "Digits (E. Alpaydin and C. Kaynak, 1998, https://doi.org/10.24432/C50P49)."
)


def load_digits() -> Dataset:
    """The 1797 handwritten digits bundled with scikit-learn.

    Returns:
        Images of shape (1797, 1, 8, 8) with pixels 0 to 16, in ten classes; no official test set.

    Example:
        >>> data = load_digits()
        >>> len(data), data.shape, data.class_names[int(data.labels[0])]
        (1797, (1, 8, 8), '0')
    """
    from sklearn.datasets import load_digits as bundled

    digits = bundled()
    return Dataset(
        inputs=torch.from_numpy(digits.images).to(torch.uint8).unsqueeze(1),
        labels=torch.from_numpy(digits.target).to(torch.int64),
        class_names=tuple(str(name) for name in digits.target_names),
        name="digits",
        source=_SOURCE,
        max_value=16.0,
    )
