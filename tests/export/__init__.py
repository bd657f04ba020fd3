"""What others open: transformer/export, and folders of the scripts in Hugging Face transformers."""
