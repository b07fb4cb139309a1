"""Commands of the offline job."""
