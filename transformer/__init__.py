"""What the scripts of the TinyBERT reproduction kit share. Importing this package loads nothing else."""
import os

# OpenMP's threads sleep while they wait for work. By default they spin, and where another process wants the core a
# training step takes several times as long. Read when torch is loaded; what the user has set stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
