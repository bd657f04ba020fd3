"""data_augmentation.py and transformer/augmentation: candidates, rows, passages, Chinese texts."""
