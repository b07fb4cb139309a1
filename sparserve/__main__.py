"""Run the command line: `python -m sparserve`."""

from sparserve.cli import main

if __name__ == "__main__":
    main()
