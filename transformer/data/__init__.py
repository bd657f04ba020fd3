"""Texts on disk to arrays to batches: TSV files and corpora, by parts and in several processes. What a label means
stands in tasks/; what is done with a batch, in training/."""
