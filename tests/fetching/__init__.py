"""download_glue.py, get_bert_models.py and transformer/fetching: files from elsewhere, and their faults."""
