// The list of all kernels with their tests. Included behind the kernels, once per instruction set.
//
// tests/kernels/test_unit.py compares the list with the functions of isa/ and simd/: none may be missing.

#include "tests/unit/checks.h"

namespace sparserve {
namespace {

using unit::near;
using unit::same;

#include "tests/unit/simd.inc.h"
#include "tests/unit/elementwise.inc.h"
#include "tests/unit/linear.inc.h"
#include "tests/unit/attention.inc.h"
#include "tests/unit/int8_attention.inc.h"

constexpr unit::Row kUnitRows[] = {
    {"float operations", "load store broadcast zero add sub mul div fma min max sqrt round scale2", float_operations},
    {"integer operations",
     "zero_int load_int store_int to_float to_int broadcast_int add_int shift_left bits_of from_bits weights_of "
     "store_bytes bytes_at",
     integer_operations},
    {"dot", "dot", dot_products},
    {"quantize", "quantize interleave_rows interleave", quantized_rows},
    {"quad, block", "quad block interleave", byte_products},
    {"exponential", "exponential", exponentials},
    {"gelu", "gelu coarse_gelu gelu_tanh silu activate", activations},
    {"layer_norm", "layer_norm", norms},
    {"quantize_tile", "quantize_tile interleave_tile dequantize", quantized_tiles},
    {"linear, dense fp32", "linear is_int dense_float dense_float_tile", linears<Storage::kDenseF32>},
    {"linear, sparse fp32", "linear is_int panels sparse_float_panel", linears<Storage::kSparseF32>},
    {"linear, 1x4 fp32", "linear is_int panels sparse_float_panel", linears<Storage::kBlockF32>},
    {"linear, dense int8", "linear is_int dense_int", linears<Storage::kDenseI8>},
    {"linear, sparse int8", "linear is_int panels sparse_int_panel prefetch_weights", linears<Storage::kSparseI8>},
    {"linear, 1x4 int8", "linear is_int panels sparse_int_panel prefetch_weights", linears<Storage::kBlockI8>},
    {"attend", "attend multiply multiply_rows", masked_attention},
    {"attend, bands", "attend first_key end_key is_edge attends", banded_attention},
    {"attend, relative positions", "attend near_keys relative_scores relative_score_rows", relative_attention},
    {"attend_one", "attend_one", first_token_attention},
    {"attend, NaN", "attend attend_one", spoiled_attention},
    {"rotate", "rotate", rotations},
    {"bytes_of", "bytes_of", packed_bytes},
    {"coarse_exp2", "coarse_exp2", powers},
    {"store_byte_keys", "store_byte_keys store_byte_values largest_magnitude", stored_bytes},
    {"attend_bytes", "attend_bytes byte_scores byte_context for_rows", byte_attention},
    {"phase, plain encoder",
     "phase_any phase_tile buffers input_of sequence_of each_vector read_input write_output attention_tile normalize "
     "finish_layer project for_vectors prefetch",
     [] { unit::compare_encoders(kTable, unit::SampleEncoder::kPlain, false, false); }},
    {"phase, attention in bytes", "phase_any project_bytes in_bytes",
     [] { unit::compare_encoders(kTable, unit::SampleEncoder::kPlain, false, true); }},
    {"phase, norms first, gates, rotary positions and bands", "phase_any read_stream",
     [] { unit::compare_encoders(kTable, unit::SampleEncoder::kModern, false, true); }},
    {"phase, relative positions", "phase_any of_head",
     [] { unit::compare_encoders(kTable, unit::SampleEncoder::kRelative, false, false); }},
    {"first_tokens", "first_tokens_any first_tokens_tile",
     [] {
       using Kind = unit::SampleEncoder;
       const Kind kinds[] = {Kind::kPlain, Kind::kModern, Kind::kRelative};
       for (const auto kind : kinds)
         unit::compare_encoders(kTable, kind, true, false);
     }},
    {"linear of a tensor", "linear_any linear_tile", [] { unit::compare_linear(kTable); }},
};
static_assert(sizeof(KernelTable) == sizeof(Traits) + 3 * sizeof(void*), "a kernel of the table has no row");

}  // namespace

#define SPARSERVE_ROWS_OF(entry) entry##_rows
#define SPARSERVE_ROWS(entry) SPARSERVE_ROWS_OF(entry)
unit::Rows SPARSERVE_ROWS(SPARSERVE_ENTRY)() { return {&kTable, kUnitRows, sizeof kUnitRows / sizeof kUnitRows[0]}; }

}  // namespace sparserve
