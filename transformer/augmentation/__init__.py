"""Candidates for the words of a sentence, by BERT's masked LM and by GloVe, and the rows made of them. Which files, and
with which settings, the script says; how a row is read stands in data/."""
