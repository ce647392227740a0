"""One model per executor and GPU: the server process, its clients, the wire between them."""
