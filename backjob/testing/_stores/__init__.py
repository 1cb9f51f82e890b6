"""The store contract, in parts. `backjob.testing` exports the public ones."""
