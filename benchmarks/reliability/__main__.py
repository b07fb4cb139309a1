"""`python -m benchmarks.reliability` runs the benchmark."""

from benchmarks.reliability.run import main

if __name__ == "__main__":
    main()
