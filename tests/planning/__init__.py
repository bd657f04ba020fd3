"""What a run will do and take: reproduce.sh --plan, --rehearse and transformer/planning."""
