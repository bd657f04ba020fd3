"""Runs found again and shown beside the published numbers: tables, curves, pages. Nothing here is read by a run."""
