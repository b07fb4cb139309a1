"""`python -m benchmarks.serving` runs the benchmark."""

from benchmarks.serving.run import main

if __name__ == "__main__":
    main()
