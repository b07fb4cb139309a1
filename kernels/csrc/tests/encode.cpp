// Run packed weights without ONNX Runtime, for emulators, sanitizers and profilers.
//
//   encode BLOB INPUT MASK BATCH LENGTH THREADS FIRST_TOKEN_ONLY INT8_ATTENTION REPEATS CALLERS [OUTPUT]
//   encode @REQUESTS
//
// INPUT is raw float32 [batch, length, hidden], MASK raw int64 [batch, length], OUTPUT (- for standard output) raw
// float32. A file of REQUESTS has such arguments on each line. Every caller computes the output REPEATS times
// concurrently on one encoder and one pool; each must equal the single-threaded output bit for bit. The environment
// variable SPARSERVE_ISA chooses the instruction set.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "cpu.h"
#include "pool.h"

namespace sparserve {
namespace {

struct Request {
  std::string blob, input, mask, output;
  std::size_t batch, length;
  std::uint32_t threads;
  bool first_token_only, int8_attention;
  std::size_t repeats, callers;
};

Request request_of(const std::vector<std::string>& words) {
  if (words.size() < 10 || words.size() > 11)
    throw std::runtime_error(
        "arguments: BLOB INPUT MASK BATCH LENGTH THREADS FIRST_TOKEN_ONLY INT8_ATTENTION REPEATS CALLERS [OUTPUT], or "
        "@REQUESTS");
  const auto number = [&](std::size_t i) { return static_cast<std::size_t>(std::stoull(words[i])); };
  return {words[0], words[1], words[2], words.size() > 10 ? words[10] : "", number(3), number(4),
          static_cast<std::uint32_t>(number(5)), number(6) != 0, number(7) != 0, number(8), number(9)};
}

template <class T>
std::vector<T> read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  std::vector<T> values(bytes.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
  return values;
}

void write(const std::string& path, const std::vector<float>& values) {
  std::FILE* file = path == "-" ? stdout : std::fopen(path.c_str(), "wb");
  if (file == nullptr || std::fwrite(values.data(), sizeof(float), values.size(), file) != values.size())
    throw std::runtime_error("cannot write " + path);
  if (file != stdout) std::fclose(file);
}

// Return true if all outputs were the same.
bool answer(const Request& request) {
  const KernelTable& kernels = choose_kernels();
  const auto bytes = read<std::uint8_t>(request.blob);
  const Encoder encoder(parse(bytes), kernels, request.first_token_only, request.int8_attention);
  const auto input = read<float>(request.input);
  const auto mask = read<std::int64_t>(request.mask);
  if (input.size() != request.batch * request.length * encoder.hidden() ||
      mask.size() != request.batch * request.length)
    throw std::runtime_error("the input must be [batch, length, hidden], and the mask [batch, length]");

  const std::size_t size = request.batch * (request.first_token_only ? 1 : request.length) * encoder.hidden();
  const auto encode = [&](const Parallel& parallel) {
    std::vector<float> output(size);
    encoder.run(input.data(), mask.data(), nullptr, false, output.data(), request.batch, request.length, parallel);
    return output;
  };
  Pool alone(1);
  const auto expected = encode(alone.parallel());
  std::atomic<std::size_t> different{0};
  {
    Pool pool(request.threads);
    std::vector<std::thread> callers;
    for (std::size_t caller = 0; caller < request.callers; ++caller)
      callers.emplace_back([&] {
        for (std::size_t i = 0; i < request.repeats; ++i) {
          const auto output = encode(pool.parallel());
          if (size != 0 && std::memcmp(output.data(), expected.data(), size * sizeof(float)) != 0) ++different;
        }
      });
    for (std::thread& caller : callers) caller.join();
  }
  if (!request.output.empty()) write(request.output, expected);
  std::fprintf(stderr, "%s %s: %zu answers, %zu differ from a single thread's\n", kernels.traits.name,
               request.blob.c_str(), request.callers * request.repeats, different.load());
  return different == 0;
}

std::vector<Request> requests_of(int count, char** arguments) {
  if (count != 2 || arguments[1][0] != '@') return {request_of({arguments + 1, arguments + count})};
  std::ifstream file(arguments[1] + 1);
  if (!file) throw std::runtime_error(std::string("cannot read ") + (arguments[1] + 1));
  std::vector<Request> requests;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    requests.push_back(request_of({std::istream_iterator<std::string>(words), {}}));
  }
  return requests;
}

}  // namespace
}  // namespace sparserve

int main(int count, char** arguments) {
  try {
    bool same = true;
    for (const auto& request : sparserve::requests_of(count, arguments)) same = sparserve::answer(request) && same;
    return same ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "encode: %s\n", error.what());
    return 2;
  }
}
