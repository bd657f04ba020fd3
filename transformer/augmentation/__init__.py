"""Candidates for the words of a sentence, by BERT's masked LM and by GloVe, and the rows made of them."""
