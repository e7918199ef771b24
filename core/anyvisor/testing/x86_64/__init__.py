"""The conformance suite on x86_64: how a guest is entered, tiny guests, and the contracts of this processor."""
