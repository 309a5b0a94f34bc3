"""Living documents: people write the prose, the project keeps the facts."""
