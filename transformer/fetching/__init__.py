"""Files from elsewhere: addresses and sums of what is published, transfers, unpacking. What is in them is
not looked at."""
