"""denzel: from a trained model to a running prediction service."""

__version__ = "1.0.0.dev0"
