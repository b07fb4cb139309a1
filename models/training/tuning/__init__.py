"""Training settings that are found: rules from the size of the data, short trials, and decisions on validation."""
