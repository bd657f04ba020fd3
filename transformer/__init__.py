"""What the scripts of the TinyBERT reproduction kit share. Importing this package loads nothing else."""
import os

# OpenMP's threads sleep while they wait for work. By default they spin, and where another process wants the core a
# training step takes several times as long. They spin for a thousand rounds first, microseconds in GNU's OpenMP: with
# none a step of a small model takes twice as long on quiet cores, as each of its many operations wakes a thread. Both
# are read when torch is loaded; what the user has set stays.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
