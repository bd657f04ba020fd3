"""Runs that are over: their curves, and the report that shows them beside the published numbers."""
