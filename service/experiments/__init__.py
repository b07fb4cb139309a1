"""Dense against compressed: comparisons, traffic splits and shadow runs."""
