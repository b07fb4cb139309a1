// Many requests of mixed shapes on one encoder: the memory that the process keeps. `soak BLOB REQUESTS [CALLERS]`
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iterator>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <unistd.h>

#include "cpu.h"
#include "pool.h"

namespace sparserve {
namespace {

constexpr std::size_t kLongest = 300, kMostRows = 16, kFirstReport = 1000;

double resident_megabytes() {
  std::ifstream file("/proc/self/statm");
  std::size_t total = 0, resident = 0;
  file >> total >> resident;
  return static_cast<double>(resident) * static_cast<double>(sysconf(_SC_PAGESIZE)) / 1e6;
}

void soak(const char* path, std::size_t requests, std::size_t callers) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> raw{std::istreambuf_iterator<char>(file), {}};
  const std::span bytes(reinterpret_cast<const std::uint8_t*>(raw.data()), raw.size());
  const Encoder encoder(parse(bytes), choose_kernels(), false);
  Pool pool(2);
  std::atomic<std::size_t> begun{0};
  const auto call = [&](unsigned seed) {
    std::mt19937 random(seed);
    const auto up_to = [&](std::size_t n) { return std::uniform_int_distribution<std::size_t>(1, n)(random); };
    for (std::size_t i = begun.fetch_add(1); i < requests; i = begun.fetch_add(1)) {
      if (i == kFirstReport) std::printf("%zu requests: %.1f MB resident\n", i, resident_megabytes());
      const std::size_t batch = up_to(kMostRows), length = up_to(up_to(kLongest));
      const std::vector<float> input(batch * length * encoder.hidden(), 0.5F);
      std::vector<float> output(input.size());
      std::vector<std::int64_t> mask(batch * length, 1);
      for (std::size_t row = 0; row < batch; ++row)
        for (std::size_t t = up_to(length); t < length; ++t) mask[row * length + t] = 0;
      encoder.run(input.data(), mask.data(), nullptr, false, output.data(), batch, length,
                  pool.parallel(static_cast<std::uint32_t>(up_to(4))));
    }
  };
  std::vector<std::thread> threads;
  for (std::size_t caller = 0; caller < callers; ++caller) threads.emplace_back(call, static_cast<unsigned>(caller));
  for (std::thread& thread : threads) thread.join();
  std::printf("%zu requests: %.1f MB resident\n", requests, resident_megabytes());
}

}  // namespace
}  // namespace sparserve

int main(int count, char** arguments) {
  if (count < 3) return std::fprintf(stderr, "arguments: BLOB REQUESTS [CALLERS]\n"), 2;
  try {
    sparserve::soak(arguments[1], std::strtoull(arguments[2], nullptr, 10),
                    count > 3 ? std::strtoull(arguments[3], nullptr, 10) : 4);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "soak: %s\n", error.what());
    return 2;
  }
}
