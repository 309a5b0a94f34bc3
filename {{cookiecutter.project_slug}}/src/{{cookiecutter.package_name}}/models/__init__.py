"""Models: from any trained model to an immutable bundle, and from a bundle to predictions."""
