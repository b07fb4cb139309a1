"""`python -m sparserve` is the command `sparserve`."""

from sparserve.models.__main__ import main

if __name__ == "__main__":
    main()
