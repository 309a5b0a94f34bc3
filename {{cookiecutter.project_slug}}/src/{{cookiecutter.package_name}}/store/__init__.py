"""The one log of the project: predictions, feedback, runs, model events, traffic and checks."""
