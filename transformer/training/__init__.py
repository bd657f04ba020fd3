"""A training run: processes, batches, states, records, scores. What is trained, and by which losses, the
scripts say."""
