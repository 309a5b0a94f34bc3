"""One thin file a protocol, found by listing the folder; each offers ``handlers(state)``."""
