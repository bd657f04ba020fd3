"""What tasks are, with their files, answers and scores: transformer/tasks."""
