"""A distilled set as a picture, as arrays, and as a data set that loaders read."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from bestresponse.apps.distill._problem import as_bytes
from bestresponse.data import load
from bestresponse.hyper import Distilled

PICTURE, ARRAYS, TABLE = "distilled.png", "distilled.npz", "distilled.parquet"
_SIDE = 112  # pixels of an image in the picture, at the least
_COLUMNS = 10


def hard_labels(data: Distilled) -> torch.Tensor:
    """The class of each image, int64 (n,)."""
    labels = data.labels.detach()
    return labels if labels.ndim == 1 else labels.argmax(1)


def files(data: Distilled, class_names: tuple[str, ...]) -> dict[str, bytes]:
    """All files, by name."""
    return {
        PICTURE: _picture(as_bytes(data).permute(0, 2, 3, 1).numpy()),
        ARRAYS: _arrays(data, class_names),
        TABLE: _table(data, class_names),
    }


def read_back(table: bytes, lr: float | None) -> Distilled:
    """The set as a loader finds it in the Parquet file, pixels and classes; `lr` is not there."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / TABLE
        path.write_bytes(table)
        dataset = load(path)
    return Distilled(dataset.inputs.to(torch.float32) / dataset.max_value, dataset.labels, lr=lr)


def _picture(images: np.ndarray) -> bytes:
    """A grid of images (n, H, W, C), enlarged without smoothing."""
    from PIL import Image

    count, height, width, channels = images.shape
    columns = min(_COLUMNS, count)
    rows = -(-count // columns)
    grid = np.full((rows, height + 1, columns, width + 1, channels), 255, np.uint8)
    for i, image in enumerate(images):
        grid[i // columns, :height, i % columns, :width] = image
    flat = grid.reshape(rows * (height + 1), columns * (width + 1), channels)
    scale = max(1, round(_SIDE / max(height, width)))
    flat = flat.repeat(scale, axis=0).repeat(scale, axis=1)
    return _png(Image.fromarray(flat[..., 0] if channels == 1 else flat))


def _png(image: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")  # type: ignore[attr-defined]
    return buffer.getvalue()


def _arrays(data: Distilled, class_names: tuple[str, ...]) -> bytes:
    arrays = {
        "images": data.images.detach().to(torch.float32).numpy(),
        "labels": data.labels.detach().numpy(),
        "weights": data.weights.detach().numpy(),
        "class_names": np.array(class_names),
    }
    if data.log_lr is not None:
        arrays["lr"] = data.lr.detach().numpy()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _table(data: Distilled, class_names: tuple[str, ...]) -> bytes:
    """Columns as the Hugging Face hub lays them out: image (bytes, path) and label."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    pixels = as_bytes(data).permute(0, 2, 3, 1).numpy()
    images = [_png(Image.fromarray(p[..., 0] if p.shape[-1] == 1 else p)) for p in pixels]
    columns = {
        "image": pa.array(
            [{"bytes": image, "path": f"{i}.png"} for i, image in enumerate(images)],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        ),
        "label": pa.array(hard_labels(data).tolist(), pa.int64()),
    }
    features: dict[str, object] = {
        "image": {"_type": "Image"},
        "label": {"names": list(class_names), "_type": "ClassLabel"},
    }
    number = {"dtype": "float32", "_type": "Value"}
    if data.label_logits is not None:
        columns["probabilities"] = pa.array(data.labels.tolist(), pa.list_(pa.float32()))
        features["probabilities"] = {"feature": number, "_type": "Sequence"}
    if data.log_weights is not None:
        columns["weight"] = pa.array(data.weights.tolist(), pa.float32())
        features["weight"] = number
    told = {"huggingface": json.dumps({"info": {"features": features}})}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns).replace_schema_metadata(told), buffer)
    return buffer.getvalue()
