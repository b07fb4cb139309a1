"""`python -m benchmarks.serving.publish` writes docs/benchmarks/serving.md."""

from benchmarks.serving.publish.page import main

if __name__ == "__main__":
    main()
