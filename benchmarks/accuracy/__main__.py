"""`python -m benchmarks.accuracy` runs the benchmark."""

from benchmarks.accuracy.run import main

if __name__ == "__main__":
    main()
