"""report.py and transformer/reporting."""
