"""What executes a model: one file a runtime, each with a `Runtime` that builds an `Engine` from an ONNX file."""
