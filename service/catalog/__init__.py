"""The models that are served: what the store asks for, what is loaded, and changes while serving."""
