"""See Django's own documentation for what this package is."""
