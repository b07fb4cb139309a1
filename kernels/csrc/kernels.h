// The seam between the code that is compiled once per instruction set (isa/) and the rest: plain structs only.
//
// Those files must not instantiate anything with external linkage: the linker keeps one copy of an inline function, and
// a std::vector method compiled for AVX-512 would then run on a machine without it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sparserve {

enum class Storage : std::uint8_t { kDenseF32, kSparseF32, kBlockF32, kDenseI8, kSparseI8, kBlockI8 };

// The entries of a row within a panel. `count` is in entries: weights, 1x4 blocks, or quads of int8 weights.
struct RowSpan {
  std::uint16_t row;
  std::uint16_t count;
};

inline constexpr std::uint32_t kSpansAhead = 8;  // so many rows ahead the memory of a row's outputs is prefetched

// A range of columns small enough for its activations to stay in a near cache (cpu.h) while all rows pass over them.
struct Panel {
  std::uint32_t first_column;
  const RowSpan* spans;         // [rows], each once, and kSpansAhead more without a meaning
  // In the order of the spans, relative to first_column: columns; for unstructured int8, offsets in bytes (a column's
  // activations always take a full tile's bytes there, so the product is known beforehand)
  const std::uint16_t* column;
  const float* floats;
  const std::int8_t* ints;
};

// A matrix in the order in which the kernels read it.
struct PackedMatrix {
  Storage storage;
  std::uint32_t rows;
  std::uint32_t columns;
  std::uint32_t panel_count;    // sparse and block shapes
  const Panel* panels;
  const float* dense_floats;    // groups of kDenseRows rows, [columns][kDenseRows]
  const std::int8_t* dense_ints;  // groups of kDenseRows rows, [columns / 4][kDenseRows][4]
  const float* bias;            // [rows]
  const float* scales;          // [rows], int8
  const float* zero_terms;      // [rows], int8: scale * sum of the row's weights
};

inline constexpr std::uint32_t kDenseRows = 6;
inline constexpr std::uint32_t kBlock = 4;        // columns of a 1x4 block
inline constexpr std::uint32_t kKeyBlock = 128;   // keys whose scores exist at a time
inline constexpr float kMasked = -1e30F;          // the score of a masked key: no sum of real scores comes near it
inline constexpr std::uint32_t kNoBand = 1U << 30;  // farther than any two tokens

// Tile and matrix parameters of one instruction set.
struct Traits {
  const char* name;
  std::uint32_t lanes;        // tokens of one vector
  std::uint32_t max_vectors;  // vectors of a full tile
  bool saturates;             // its byte product adds two products in 16 bits, saturating
  // Bytes of one feature's activations in a full tile
  std::uint32_t float_row_bytes() const { return lanes * max_vectors * 4; }
  std::uint32_t int_row_bytes() const { return lanes * max_vectors; }
};

// One sequence of a run: its keys and values are shared by all tiles that hold its tokens.
struct Sequence {
  std::uint32_t batch_index;
  std::uint32_t tokens;         // up to and including the last that is not masked
  std::uint32_t first_vector;   // position in the run, in vectors
  std::uint32_t stride;         // tokens rounded up to whole vectors
  const float* key_bias;        // [tokens], 0 or kMasked; null if no token is masked
  std::size_t buffer;           // offset of its keys (and values) in the run's buffers, in floats per feature width
};

// Neighbouring vectors of a run, computed together. Features are rows, tokens are columns.
struct Tile {
  std::uint32_t first_vector;
  std::uint32_t vectors;
  std::uint32_t first_sequence;  // of its first token
};

// LayerNorm over the hidden features; the weight is null where there is none.
struct PackedNorm {
  const float* weight;
  const float* bias;
};

// Rotary positions: cosines and sines of every position's angles, [head_dim / 2][stride]; null where there are none.
struct Rotary {
  const float* cosines;
  const float* sines;
  std::size_t stride;
};

// Relative positions (DeBERTa): what the key and query projections make of the embedding of each distance, [width]
// [stride]; queries are scaled. Columns are the distances of a query from a key, from -(Run::positions - 1) on, and each
// head's features are in blocks of columns (distance_at), so that a range of them is read in few pieces; in a layer of
// which the first token alone is wanted, columns are the key's positions, without blocks. Null where there are none.
struct Relative {
  const float* keys;
  const float* queries;
  std::size_t stride;  // in a layer with blocks a multiple of kDistanceBlock
};

inline constexpr std::uint32_t kDistanceBlock = 64;  // columns; a multiple of the lanes of every instruction set

// Place of a head's feature `d` and a column in blocks.
constexpr std::size_t distance_at(std::size_t head_dim, std::size_t d, std::size_t column) {
  return (column / kDistanceBlock * head_dim + d) * kDistanceBlock + column % kDistanceBlock;
}

// Floats of scratch for a block of keys and its distances from the queries, of one head (isa/attention.inc.h).
constexpr std::size_t near_floats(std::size_t head_dim, std::size_t lanes, std::size_t queries) {
  return head_dim * (2 * (kKeyBlock + queries + lanes) + kKeyBlock + lanes);
}

struct PackedLayer {
  PackedMatrix query, key, value, attention_output, intermediate, output;
  PackedMatrix gate;        // of the feed-forward: its outputs times the activated ones; no rows where there is none
  PackedNorm attention_norm, output_norm;  // after the residual sums or, with Run::pre_norm, ahead of the linears
  Rotary rotary;
  Relative relative;
  std::uint32_t band;       // a query attends to keys at most this far from it
};

// Stages of a run for profiles: nanoseconds summed over threads, counted only while profiling is on.
enum Stage : std::uint32_t {
  kLayoutStage, kQuantizeStage, kProjectStage, kAttentionStage, kAttentionOutputStage, kNormStage, kIntermediateStage,
  kOutputStage, kStages
};
struct Profile {
  std::uint64_t (*now)();
  void (*add)(std::uint32_t stage, std::uint64_t nanoseconds);
};

// State shared by the phases of one run.
struct Run {
  const PackedLayer* layers;
  std::uint32_t layer_count;
  std::uint32_t hidden;
  std::uint32_t head_dim;
  std::uint32_t max_width;         // of attention over all layers
  std::uint32_t positions;         // of the longest sequence that tables of positions allow
  float query_factor;              // of the scores
  std::uint32_t activation;
  float epsilon;
  bool pre_norm;
  PackedNorm final_norm;           // of the last layer's states, or none
  bool first_token_only;
  bool int8_attention;             // keys and values are bytes, except those that only first tokens read
  const Profile* profile;          // or null

  const float* input;              // [batch, length, hidden]
  float* output;                   // [batch, length or 1, hidden], zeroed
  std::size_t length;
  const float* position_bias;      // [1 or batch, heads, key, query] or null
  std::size_t position_bias_batch_stride;

  const Sequence* sequences;
  std::uint32_t sequence_count;
  const Tile* tiles;
  float* states;                   // per tile: [hidden][tile tokens]
  float* queries;                  // per tile: [width][tile tokens]
  float* keys[2];                  // per sequence: [width][stride], or bytes (isa/int8_attention.inc.h); the layer's
                                   // parity chooses
  float* values[2];
};

// Scratch of one tile: offsets of its parts and its total size, in bytes.
struct Scratch {
  std::size_t context, wide, sum, bytes_planar, bytes_blocks, scores, near, token, total;
};

struct KernelTable {
  Traits traits;
  // Phase `phase` of `tile`: the rest of layer phase-1 after its queries, keys and values are known; then the queries,
  // keys and values of layer `phase`. Phases of one run are separated by barriers; tiles of a phase are independent.
  void (*phase)(const Run& run, std::uint32_t phase, std::uint32_t tile, const Scratch& layout, std::uint8_t* scratch);
  // The last phase where only each sequence's first token is wanted, for sequences [first, first + count).
  void (*first_tokens)(const Run& run, std::uint32_t first, std::uint32_t count, const Scratch& layout,
                       std::uint8_t* scratch);
  // One linear over `tokens` rows (at most a tile) of row-major input [tokens, columns] to [tokens, rows].
  void (*linear)(const PackedMatrix& matrix, const float* input, float* output, std::uint32_t tokens,
                 const Scratch& layout, std::uint8_t* scratch);
};

// One table for each instruction set that was compiled in; null if it was not.
const KernelTable* portable_kernels();
const KernelTable* avx2_kernels();
const KernelTable* avx2_vnni_kernels();
const KernelTable* avx512_kernels();
const KernelTable* avx512_vnni_kernels();
const KernelTable* neon_kernels();

}  // namespace sparserve
