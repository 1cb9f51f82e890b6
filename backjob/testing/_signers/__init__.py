"""The parts of the signer contract, which `backjob.testing.signers` puts together."""
