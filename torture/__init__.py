"""`make torture`: real clients write while the server, the network, the disk and the clients are hurt."""
