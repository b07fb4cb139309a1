"""The report of a task: what compression saved and what it cost."""
