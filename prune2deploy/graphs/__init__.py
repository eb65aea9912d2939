"""ONNX graphs: how they are exported, fused, given other weights and cast."""
