"""The modules at the root of transformer/: models, losses, optimizer, tokenizers, folders of models."""
