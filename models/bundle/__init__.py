"""The contract between the job and the service: immutable, verified bundles in a store."""
