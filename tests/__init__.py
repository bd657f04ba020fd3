"""The tests, a folder for each wing of transformer/ and three more: base, chain, house."""
