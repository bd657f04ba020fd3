"""What a run of reproduce.sh will do and take, before it is started: its commands read, counted and priced."""
