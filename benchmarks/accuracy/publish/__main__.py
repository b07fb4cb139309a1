"""`python -m benchmarks.accuracy.publish` writes docs/benchmarks/accuracy.md and its plots."""

from benchmarks.accuracy.publish.page import main

if __name__ == "__main__":
    main()
