"""Running a CLIP for use: strings and pictures in, unit vectors out, without torch where an ONNX graph is at hand."""

from binderclip.engine.calibration import Calibration
from binderclip.engine.encoder import Encoder

__all__ = ["Calibration", "Encoder"]
