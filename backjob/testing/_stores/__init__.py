"""The store contract, in parts. `backjob.testing` exports what third parties use."""
