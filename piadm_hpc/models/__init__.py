"""Models: folders, cards, adapters, denoisers."""
