"""The contracts of the conformance suite that hold on every architecture, a class and a file for each topic."""
