"""What a learned augmentation does to images: the original, samples, and how they vary."""

from __future__ import annotations

import torch
from torch import Tensor

from bestresponse.apps import _figures, _html
from bestresponse.apps._examples import Examples
from bestresponse.apps.tune._groups import Tuned

_IMAGES, _SAMPLES, _DRAWS = 6, 5, 200


def changed_images(hyper: Tuned, train: Examples) -> list[str]:
    """A section of the report, if there is a learned augmentation."""
    augment = hyper.augmentation()
    if augment is None:
        return []
    images, _ = train.batch(torch.arange(min(_IMAGES, len(train))))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        samples = [augment(images) for _ in range(_SAMPLES)]
        deviation = torch.stack([augment(images) for _ in range(_DRAWS)]).std(0)
    columns = [images, *samples, deviation / deviation.amax()]
    names = ["original", *(f"sample {i + 1}" for i in range(_SAMPLES)), "deviation"]
    cells = [_shown(column[i]) for i in range(len(images)) for column in columns]
    captions = names + [""] * (len(cells) - len(names))
    figure = _figures.gallery(torch.stack(cells).numpy(), captions, columns=len(columns))
    text = (
        f"Training images, {_SAMPLES} draws of the learned augmentation, and the standard "
        f"deviation of each pixel over {_DRAWS} draws (the largest, {float(deviation.amax()):.2f} "
        "of a full pixel, has the full colour)."
    )
    picture = _html.picture(_figures.to_uri(figure), "images, augmented samples, deviation")
    return [_html.section("What the augmentation does", text, picture)]


def _shown(image: Tensor) -> Tensor:
    """(C, H, W) as something to draw: (H, W) or (H, W, 3) between 0 and 1."""
    image = image.detach().cpu().to(torch.float32).clamp(0, 1)
    return image[0] if len(image) == 1 else image.permute(1, 2, 0)
