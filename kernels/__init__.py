"""The sparse runtime: an ONNX Runtime custom-op library for sparse encoders (csrc/) and the packer for its weights."""
