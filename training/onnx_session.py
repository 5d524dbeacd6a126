"""Opening an exported network, the same way when it is proven and timed, and when it is served."""

from __future__ import annotations

from pathlib import Path

import onnxruntime


def open_onnx(path: Path) -> onnxruntime.InferenceSession:
    """Open an ONNX model on one thread, which is fastest for single samples.

    Args:
        path: The file.

    Returns:
        The session; it may be called from several threads at a time.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
