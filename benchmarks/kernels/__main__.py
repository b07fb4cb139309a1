"""`python -m benchmarks.kernels` runs the benchmark."""

from benchmarks.kernels.run import main

if __name__ == "__main__":
    main()
