"""The processes of a service: one that serves, or several workers under a supervisor that together look like one."""
