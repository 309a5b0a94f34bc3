"""One thin file a protocol or page; each is found by being here, and can be deleted."""
