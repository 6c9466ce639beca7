"""The client for programs that run an event loop. `modelpress.client.synchronous` is written from this folder (`make docs`)."""
