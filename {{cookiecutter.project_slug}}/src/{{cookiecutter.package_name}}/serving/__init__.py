"""The service: a contract by FastAPI, and the hot routes dispatched before it."""
