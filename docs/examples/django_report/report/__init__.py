"""An app that exports a report."""
