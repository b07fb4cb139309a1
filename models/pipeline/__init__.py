"""The job as a resumable chain of cached steps."""
