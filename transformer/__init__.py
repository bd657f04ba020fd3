"""What the scripts of the TinyBERT reproduction kit share. Importing this package loads nothing else."""
