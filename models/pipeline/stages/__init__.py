"""The stages of the job: one file per stage, each a function that returns the stage's step."""
