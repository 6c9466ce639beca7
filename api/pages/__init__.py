"""What people look at: pages made on the server from the same functions that `/v1` calls."""
