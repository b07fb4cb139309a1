#include "encoder.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <deque>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>

namespace sparserve {
namespace {

constexpr std::align_val_t kAlignment{64};
constexpr std::size_t kChunkTokens = 1024;  // longer runs are divided: bounds the workspace and keeps it in cache
constexpr std::size_t kKeptScratch = 64;
constexpr std::size_t kKeptScratchBytes = 16 << 20;
constexpr std::size_t kKeptWorkspaces = 8;
constexpr std::size_t kKeptWorkspaceBytes = 64 << 20;

std::atomic<bool> profiling{false};
std::array<std::atomic<std::uint64_t>, kStages> stage_times{};

const Profile kProfile = {
    [] {
      return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                            std::chrono::steady_clock::now().time_since_epoch())
                                            .count());
    },
    [](std::uint32_t stage, std::uint64_t nanoseconds) { stage_times[stage].fetch_add(nanoseconds); },
};

std::size_t aligned(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

// Lay out the scratch of one tile; widths are in features.
Scratch scratch_layout(const Traits& traits, std::size_t inputs, std::size_t widest, std::size_t context,
                       std::size_t states, std::size_t scores, std::size_t near) {
  const std::size_t tokens = std::size_t{traits.lanes} * traits.max_vectors;
  const std::size_t whole = (inputs + 3) / 4 * 4;
  Scratch s{};
  std::size_t at = 0;
  const auto part = [&](std::size_t bytes) {
    const std::size_t begin = at;
    at += aligned(bytes);
    return begin;
  };
  s.context = part(context * tokens * 4);
  s.wide = part(widest * tokens * 4);
  // A whole group of dense int8 rows is written here, even if the matrix has fewer rows.
  s.sum = part(std::max<std::size_t>(widest, kDenseRows) * tokens * 4);
  s.bytes_planar = part(whole * tokens);
  s.bytes_blocks = part(whole * tokens);
  s.scores = part(scores * 4);
  s.near = part(near * 4);
  s.token = part((2 + states) * tokens * 4);
  s.total = at;
  return s;
}

// The same matrix with float values.
Matrix in_floats(const Matrix& matrix) {
  Matrix result = matrix;
  if (matrix.type != ValueType::kInt8) return result;
  result.type = ValueType::kFloat32;
  result.floats.resize(matrix.ints.size());
  for (std::uint32_t row = 0; row < matrix.rows; ++row)
    for (std::size_t i = std::size_t{matrix.row_begin[row]} * matrix.width();
         i < std::size_t{matrix.row_begin[row + 1]} * matrix.width(); ++i)
      result.floats[i] = static_cast<float>(matrix.ints[i]) * matrix.scales[row];
  result.ints.clear();
  return result;
}

// An exception must not leave a task, because the pool belongs to the caller. The first is rethrown here.
template <class Function>
void parallel_for(const Parallel& parallel, std::size_t count, Function&& function) {
  if (count == 1) {
    for (std::size_t i = 0; i < count; ++i) function(i);
    return;
  }
  struct Shared {
    std::remove_reference_t<Function>& function;
    std::mutex mutex;
    std::exception_ptr error;
  } shared{function, {}, nullptr};
  const auto task = [](void* data, std::size_t i) {
    auto& mine = *static_cast<Shared*>(data);
    try {
      mine.function(i);
    } catch (...) {
      const std::lock_guard lock(mine.mutex);
      if (!mine.error) mine.error = std::current_exception();
    }
  };
  parallel.run(parallel.context, task, count, &shared);
  if (shared.error) std::rethrow_exception(shared.error);
}

}  // namespace

void BufferPool::Lease::Free::operator()(std::uint8_t* p) const { ::operator delete[](p, kAlignment); }

BufferPool::Lease::Lease(BufferPool& pool, std::size_t bytes) : pool_(pool) {
  {
    const std::lock_guard lock(pool.mutex_);
    // Take the smallest sufficient buffer; otherwise any, which is then replaced by a larger one.
    auto best = pool.free_.end();
    for (auto it = pool.free_.begin(); it != pool.free_.end(); ++it)
      if (it->bytes >= bytes && (best == pool.free_.end() || it->bytes < best->bytes)) best = it;
    if (best == pool.free_.end() && !pool.free_.empty()) best = pool.free_.begin();
    if (best != pool.free_.end()) {
      bytes_ = best->bytes;
      data_ = std::move(best->data);
      pool.free_.erase(best);
    }
  }
  if (bytes_ < bytes) {
    data_.reset();
    data_.reset(new (kAlignment) std::uint8_t[bytes]());
    bytes_ = bytes;
  }
}

BufferPool::Lease::~Lease() {
  if (bytes_ > pool_.keep_bytes_) return;
  const std::lock_guard lock(pool_.mutex_);
  if (pool_.free_.size() < pool_.keep_) pool_.free_.push_back({bytes_, std::move(data_)});
}

Encoder::Encoder(Blob&& blob, const KernelTable& kernels, bool first_token_only, bool int8_attention)
    : kernels_(kernels),
      packer_(kernels.traits),
      hidden_(blob.hidden),
      head_dim_(blob.head_dim),
      activation_(static_cast<std::uint32_t>(blob.activation)),
      epsilon_(blob.epsilon),
      pre_norm_(blob.pre_norm),
      positions_(blob.positions),
      query_factor_(1.0F / std::sqrt(static_cast<float>(blob.head_dim * (blob.relative.table.rows != 0 ? 3U : 1U)))),
      first_token_only_(first_token_only),
      int8_attention_(int8_attention),
      scratch_(kKeptScratch, kKeptScratchBytes),
      workspaces_(kKeptWorkspaces, kKeptWorkspaceBytes) {
  if (int8_attention && head_dim_ % kBlock != 0)
    throw BlobError("packed weights: int8 attention needs heads of a multiple of four features, not " +
                    std::to_string(head_dim_));
  for (Layer& layer : blob.layers) {
    PackedLayer packed{};
    if (blob.relative.table.rows != 0)
      packed.relative = relative_of(layer, blob.relative, first_token_only && &layer == &blob.layers.back());
    packed.query = packer_.pack(std::move(layer.query));
    packed.key = packer_.pack(std::move(layer.key));
    packed.value = packer_.pack(std::move(layer.value));
    packed.attention_output = packer_.pack(std::move(layer.attention_output));
    packed.intermediate = packer_.pack(std::move(layer.intermediate));
    packed.output = packer_.pack(std::move(layer.output));
    if (layer.gate.rows != 0) packed.gate = packer_.pack(std::move(layer.gate));
    packed.attention_norm = keep(std::move(layer.attention_norm));
    packed.output_norm = keep(std::move(layer.output_norm));
    if (!layer.rotary.empty()) packed.rotary = rotary_of(layer.rotary);
    packed.band = std::min(layer.band, kNoBand);
    max_width_ = std::max(max_width_, packed.query.rows);
    max_intermediate_ = std::max(max_intermediate_, packed.intermediate.rows);
    layers_.push_back(packed);
  }
  final_norm_ = keep(std::move(blob.final_norm));
}

PackedNorm Encoder::keep(Norm&& norm) {
  if (norm.weight.empty()) return {};
  const float* weight = packer_.keep(std::move(norm.weight));
  return {weight, packer_.keep(std::move(norm.bias))};
}

Rotary Encoder::rotary_of(const std::vector<float>& frequencies) {
  for (const auto& [known, rotary] : rotaries_)
    if (known == frequencies) return rotary;
  const std::uint32_t lanes = kernels_.traits.lanes;
  const std::size_t stride = (std::size_t{positions_} + lanes - 1) / lanes * lanes;
  std::vector<float> cosines(frequencies.size() * stride), sines(cosines.size());
  for (std::size_t i = 0; i < frequencies.size(); ++i)
    for (std::size_t position = 0; position < stride; ++position) {
      const double angle = static_cast<float>(position) * frequencies[i];  // rounded to float first, as in training
      cosines[i * stride + position] = static_cast<float>(std::cos(angle));
      sines[i * stride + position] = static_cast<float>(std::sin(angle));
    }
  const float* kept = packer_.keep(std::move(cosines));
  rotaries_.emplace_back(frequencies, Rotary{kept, packer_.keep(std::move(sines)), stride});
  return rotaries_.back().second;
}

Relative Encoder::relative_of(const Layer& layer, const RelativePositions& relative, bool first_token_only) {
  const float* keys = project_distances(layer.key, relative, first_token_only, 1.0F);
  const float* queries = project_distances(layer.query, relative, first_token_only, query_factor_);
  return {keys, queries, distance_columns(relative, first_token_only)};
}

// The columns of a table of relative positions: zeros follow, because the last vector of a sequence may go beyond it.
std::size_t Encoder::distance_columns(const RelativePositions& relative, bool first_token_only) const {
  const std::size_t lanes = kernels_.traits.lanes;
  if (first_token_only) return positions_ + lanes;
  return (relative.rows.size() + 2 * lanes + kDistanceBlock - 1) / kDistanceBlock * kDistanceBlock;
}

// A projection of the embedding of each distance (kernels.h, Relative), computed with the packed weights in float.
const float* Encoder::project_distances(const Matrix& projection, const RelativePositions& relative,
                                        bool first_token_only, float factor) {
  MatrixPacker packer(kernels_.traits);  // of what is needed here only
  const PackedMatrix matrix = packer.pack(in_floats(projection));
  const std::uint32_t rows = relative.table.rows;
  const std::size_t tile = std::size_t{kernels_.traits.lanes} * kernels_.traits.max_vectors;
  const Scratch layout = scratch_layout(kernels_.traits, matrix.columns, std::max(matrix.rows, matrix.columns),
                                        matrix.columns, 0, 0, 0);
  const BufferPool::Lease scratch(scratch_, layout.total);
  std::vector<float> projected(std::size_t{rows} * matrix.rows);
  for (std::size_t first = 0; first < rows; first += tile)
    kernels_.linear(matrix, relative.table.floats.data() + first * matrix.columns,
                    projected.data() + first * matrix.rows,
                    static_cast<std::uint32_t>(std::min<std::size_t>(tile, rows - first)), layout, scratch.data());

  const std::size_t columns = first_token_only ? positions_ : relative.rows.size();
  const std::size_t stride = distance_columns(relative, first_token_only);
  std::vector<float> table(matrix.rows * stride);
  for (std::size_t column = 0; column < columns; ++column) {
    // Of the first token's distances from the keys, which are at most zero, or of all distances.
    const std::uint32_t row = relative.rows[first_token_only ? positions_ - 1 - column : column];
    for (std::size_t feature = 0; feature < matrix.rows; ++feature) {
      const std::size_t d = feature % head_dim_;
      const std::size_t at = first_token_only ? feature * stride + column
                                              : (feature - d) * stride + distance_at(head_dim_, d, column);
      table[at] = factor * projected[std::size_t{row} * matrix.rows + feature];
    }
  }
  return packer_.keep(std::move(table));
}

void Encoder::run(const float* input, const std::int64_t* mask, const float* position_bias, bool bias_per_row,
                  float* output, std::size_t batch, std::size_t length, const Parallel& parallel) const {
  std::memset(output, 0, batch * (first_token_only_ ? 1 : length) * hidden_ * sizeof(float));
  if (length == 0) return;
  Run run{};
  run.layers = layers_.data();
  run.layer_count = static_cast<std::uint32_t>(layers_.size());
  run.hidden = hidden_;
  run.head_dim = head_dim_;
  run.max_width = max_width_;
  run.activation = activation_;
  run.positions = positions_;
  run.query_factor = query_factor_;
  run.epsilon = epsilon_;
  run.pre_norm = pre_norm_;
  run.final_norm = final_norm_;
  run.first_token_only = first_token_only_;
  run.int8_attention = int8_attention_;
  run.profile = profiling.load(std::memory_order_relaxed) ? &kProfile : nullptr;
  run.input = input;
  run.output = output;
  run.length = length;
  run.position_bias = position_bias;
  if (bias_per_row) run.position_bias_batch_stride = std::size_t{heads(0)} * length * length;

  const std::uint32_t lanes = kernels_.traits.lanes;
  std::vector<Sequence> sequences;
  std::deque<std::vector<float>> key_biases;  // of rows with masked tokens inside; sequences point into them
  std::uint32_t vectors = 0;
  const auto flush = [&] {
    if (sequences.empty()) return;
    run_chunk(run, sequences, vectors, parallel);
    sequences.clear();
    vectors = 0;
  };
  for (std::size_t row = 0; row < batch; ++row) {
    const std::int64_t* own = mask + row * length;
    std::size_t tokens = length;
    while (tokens > 0 && own[tokens - 1] == 0) --tokens;
    if (tokens == 0) continue;
    if (positions_ != 0 && tokens > positions_)
      throw std::invalid_argument("a sequence of " + std::to_string(tokens) +
                                  " tokens is longer than this encoder's " + std::to_string(positions_) + " positions");
    const bool holes = std::find(own, own + tokens, 0) != own + tokens;
    if (holes) {
      std::vector<float>& biases = key_biases.emplace_back(tokens);
      for (std::size_t t = 0; t < tokens; ++t) biases[t] = own[t] != 0 ? 0.0F : kMasked;
    }
    const auto own_vectors = static_cast<std::uint32_t>((tokens + lanes - 1) / lanes);
    if (std::size_t{vectors + own_vectors} * lanes > kChunkTokens) flush();
    sequences.push_back({static_cast<std::uint32_t>(row), static_cast<std::uint32_t>(tokens), vectors,
                         own_vectors * lanes, holes ? key_biases.back().data() : nullptr, std::size_t{vectors} * lanes});
    vectors += own_vectors;
  }
  flush();
}

void Encoder::run_chunk(Run& run, const std::vector<Sequence>& sequences, std::uint32_t vectors,
                        const Parallel& parallel) const {
  const Traits& traits = kernels_.traits;
  run.sequences = sequences.data();
  run.sequence_count = static_cast<std::uint32_t>(sequences.size());

  // Use full tiles, or enough smaller ones to keep all threads busy.
  std::uint32_t count = (vectors + traits.max_vectors - 1) / traits.max_vectors;
  if (count < 4 * parallel.threads) {
    const std::uint32_t whole = (count + parallel.threads - 1) / parallel.threads * parallel.threads;
    count = std::min(whole, vectors);
  }
  std::vector<Tile> tiles(count);
  std::uint32_t sequence = 0;
  for (std::uint32_t t = 0, at = 0; t < count; ++t) {
    const std::uint32_t size = vectors / count + (t < vectors % count ? 1 : 0);
    while (at >= sequences[sequence].first_vector + sequences[sequence].stride / traits.lanes) ++sequence;
    tiles[t] = {at, size, sequence};
    at += size;
  }
  run.tiles = tiles.data();

  const std::size_t tokens = std::size_t{vectors} * traits.lanes;
  const std::size_t states = aligned(tokens * hidden_ * sizeof(float));
  const std::size_t wide = aligned(tokens * max_width_ * sizeof(float));
  const BufferPool::Lease workspace(workspaces_, states + 5 * wide);
  const auto part = [&](std::size_t offset) { return reinterpret_cast<float*>(workspace.data() + offset); };
  run.states = part(0);
  run.queries = part(states);
  for (std::size_t parity = 0; parity < 2; ++parity) {
    run.keys[parity] = part(states + (1 + 2 * parity) * wide);
    run.values[parity] = part(states + (2 + 2 * parity) * wide);
  }

  std::size_t longest = 0;
  for (const Sequence& s : sequences) longest = std::max<std::size_t>(longest, s.stride);
  const std::size_t widest = std::max({hidden_, max_width_, max_intermediate_});
  const std::size_t context = pre_norm_ ? std::max(max_width_, hidden_) : max_width_;  // norms are written there too
  const Scratch layout =
      scratch_layout(traits, widest, widest, context, run.first_token_only ? hidden_ : 0,
                     std::max<std::size_t>(kKeyBlock * traits.lanes * traits.max_vectors, longest),
                     layers_.front().relative.keys != nullptr
                         ? near_floats(head_dim_, traits.lanes, std::size_t{traits.lanes} * traits.max_vectors)
                         : 0);
  for (std::uint32_t phase = 0; phase <= run.layer_count; ++phase) {
    if (phase == run.layer_count && run.first_token_only) {
      const std::size_t group_vectors = (run.sequence_count + traits.lanes - 1) / traits.lanes;
      const std::size_t groups =
          std::min(group_vectors, std::max<std::size_t>((group_vectors + traits.max_vectors - 1) / traits.max_vectors,
                                                        parallel.threads));
      const std::size_t per_group = (group_vectors + groups - 1) / groups * traits.lanes;
      parallel_for(parallel, (run.sequence_count + per_group - 1) / per_group, [&](std::size_t group) {
        const BufferPool::Lease scratch(scratch_, layout.total);
        const auto first = static_cast<std::uint32_t>(group * per_group);
        const auto n = std::min(static_cast<std::uint32_t>(per_group), run.sequence_count - first);
        kernels_.first_tokens(run, first, n, layout, scratch.data());
      });
      return;
    }
    parallel_for(parallel, count, [&](std::size_t tile) {
      const BufferPool::Lease scratch(scratch_, layout.total);
      kernels_.phase(run, phase, static_cast<std::uint32_t>(tile), layout, scratch.data());
    });
  }
}

void profile(bool on, std::uint64_t* nanoseconds) {
  for (std::size_t stage = 0; stage < kStages; ++stage) nanoseconds[stage] = stage_times[stage].exchange(0);
  profiling.store(on);
}

Linear::Linear(Blob&& blob, const KernelTable& kernels)
    : kernels_(kernels),
      packer_(kernels.traits),
      matrix_(packer_.pack(std::move(blob.linear))),
      scratch_(kKeptScratch, kKeptScratchBytes) {}

void Linear::run(const float* input, float* output, std::size_t tokens, const Parallel& parallel) const {
  const Traits& traits = kernels_.traits;
  const std::size_t tile = std::size_t{traits.lanes} * traits.max_vectors;
  const Scratch layout = scratch_layout(traits, columns(), std::max(rows(), columns()), columns(), 0, 0, 0);
  if (tokens == 0) return;
  parallel_for(parallel, (tokens + tile - 1) / tile, [&](std::size_t index) {
    const BufferPool::Lease scratch(scratch_, layout.total);
    const std::size_t first = index * tile;
    const auto n = static_cast<std::uint32_t>(std::min(tile, tokens - first));
    kernels_.linear(matrix_, input + first * columns(), output + first * rows(), n, layout, scratch.data());
  });
}

}  // namespace sparserve
