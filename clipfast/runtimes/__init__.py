"""Encoders that other runtimes compute: exported towers in ONNX Runtime and TensorRT, behind the engine's protocol."""
