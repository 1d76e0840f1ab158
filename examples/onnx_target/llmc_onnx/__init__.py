"""A target for llmc: step graphs as ONNX models, and an executor that runs them with onnxruntime."""
