"""What a task is: its columns, its head, its scores, and what is sent to its server. No files of the kit's examples
are read here (data/), no model is run (training/)."""
