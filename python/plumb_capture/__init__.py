# SPDX-License-Identifier: Apache-2.0
"""Records what a PyTorch model computes as a trace that plumb can judge."""

from .trace_file import CaptureError, TraceFile

__all__ = ["CaptureError", "TraceFile", "capture"]
__version__ = "0.1.0"


def __getattr__(name):
    # torch is loaded when it is needed: the ONNX part works without it.
    if name == "capture":
        from .torch_capture import capture

        return capture
    raise AttributeError(name)
