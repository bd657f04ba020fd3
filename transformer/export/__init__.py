"""A model of a task as a folder for others: Hugging Face's layout, ONNX, a model card. What the kit reads and trains
needs nothing of it."""
