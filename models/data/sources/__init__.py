"""Sources of labelled text: files and folders of splits, Hub data sets, and a column that names the splits."""
