"""The scripts that train and transformer/training: steps, stops, states, processes, scores."""
