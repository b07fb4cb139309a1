"""From a trained network to ONNX graphs: export, quantization, the packed sparse graph."""
