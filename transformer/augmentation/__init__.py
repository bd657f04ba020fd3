"""Candidates for the words of a text, by BERT's masked LM and by GloVe, and the rows made of them, for tables and for
passages. Which files, and with which settings, the script says; how they are read stands in data/ and tasks/."""
