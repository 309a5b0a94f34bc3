"""The status page: the state of the system in one glance, and its charts."""
