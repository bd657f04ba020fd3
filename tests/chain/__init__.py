"""Several steps one after the other: reproduce.sh, the embedded world, other teachers, Chinese."""
