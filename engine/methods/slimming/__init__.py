"""Networks whose width is learned, chosen or switched."""
