"""Runs that are over: their curves, and the report that shows them beside the published numbers. What a run writes of
itself stands in training/; nothing here is needed to train."""
