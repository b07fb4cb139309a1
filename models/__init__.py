"""The offline job: everything that turns a checkpoint and labelled text into a bundle that can be served."""
