"""The HTTP service: text classification over onnxruntime, dense and compressed side by side.

It reads bundles through `models.bundle`, `models.store` and `models.runtime`, and imports neither torch nor
transformers nor onnx.
"""
