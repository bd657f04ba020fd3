"""Files from elsewhere: addresses and sums of what is published, transfers, unpacking, and what of it makes a model
folder whole."""
