"""What stands before every route: authentication, middleware, metrics."""
