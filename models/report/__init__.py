"""The report of a task: savings and cost of compression."""
