"""Candidates for the words of a sentence: by BERT's masked LM and by GloVe. Choosing among them is the script's."""
