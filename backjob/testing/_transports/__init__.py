"""The parts of the transport contract. `backjob.testing.transports` and `backjob.testing.deliveries` publish them."""
