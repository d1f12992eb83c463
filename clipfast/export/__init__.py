"""Exports of a loaded model: ONNX towers, TensorRT engines and NVIDIA Triton repositories, each verified when made."""
