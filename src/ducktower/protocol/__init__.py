"""Words that both sides of the wire share. No threads, no sockets, no SQL."""
