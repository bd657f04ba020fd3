"""prepare_data.py, prepare_task.py, pregenerate_training_data.py and transformer/data: texts to arrays to batches."""
