// The custom operators, domain "sparserve": SparseEncoder and SparseLinear, over ONNX Runtime's C ABI.
//
// SparseEncoder: hidden states [batch, length, hidden], attention mask [batch, length] int64, packed weights [bytes]
// uint8 (an initializer) and optionally a position bias [1 or batch, heads, key, query]; returns the last layer's states
// [batch, length, hidden], or of the first token alone, [batch, 1, hidden], with the attribute first_token_only = 1.
// int8_attention = 1 computes attention in bytes where a layer has neither a band nor relative positions.
// SparseLinear: activations [..., columns], packed weights; returns [..., rows].
#include <exception>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "ort/abi.h"
#include "cpu.h"
#include "encoder.h"
#include "ort/api.h"
#include "ort/thread_count.h"

#define SPARSERVE_EXPORT extern "C" __attribute__((visibility("default")))

namespace sparserve {
namespace {

using namespace ort;

struct Call {
  const OrtApi& runtime;
  const KernelContext* context;
};

Parallel parallel_of(Call& call, ThreadCount& threads) {
  return {&call,
          [](void* data, void (*task)(void*, std::size_t), std::size_t count, void* task_data) {
            const auto& mine = *static_cast<const Call*>(data);
            mine.runtime.parallel_for(mine.context, task, count, task_data);
          },
          threads.get(call.runtime, call.context)};
}

[[noreturn]] void bad_input(const std::string& what) { throw OpError{kInvalidArgument, "sparserve: " + what}; }

struct EncoderKernel {
  OrtApi runtime;
  Encoder encoder;
  ThreadCount threads;

  EncoderKernel(const OrtApi& api, const KernelInfo* info)
      : runtime(api),
        encoder(api.blob(info, 2, Kind::kEncoder), choose_kernels(), api.attribute(info, "first_token_only", 0) != 0,
                api.attribute(info, "int8_attention", 0) != 0) {}

  void compute(KernelContext* context) {
    const Value* states = runtime.input(context, 0);
    const Value* mask = runtime.input(context, 1);
    const auto shape = runtime.shape(states);
    if (shape.size() != 3 || shape[2] != static_cast<std::int64_t>(encoder.hidden()))
      bad_input("hidden states must be [batch, length, " + std::to_string(encoder.hidden()) + "]");
    if (runtime.shape(mask) != std::vector<std::int64_t>{shape[0], shape[1]})
      bad_input("the attention mask must be [batch, length] like the hidden states");
    const Value* bias = runtime.input_count(context) > 3 ? runtime.input(context, 3) : nullptr;
    bool bias_per_row = false;
    if (bias != nullptr) {
      const auto dimensions = runtime.shape(bias);
      for (std::size_t layer = 0; layer < encoder.layers(); ++layer) {
        const auto heads = static_cast<std::int64_t>(encoder.heads(layer));
        if (dimensions.size() != 4 || (dimensions[0] != 1 && dimensions[0] != shape[0]) || dimensions[1] != heads ||
            dimensions[2] != shape[1] || dimensions[3] != shape[1])
          bad_input("the position bias must be [1 or batch, heads, key, query], with the same heads in every layer");
      }
      bias_per_row = dimensions[0] != 1;
    }
    float* output = runtime.output(context, {shape[0], encoder.first_token_only() ? 1 : shape[1], shape[2]});
    Call call{runtime, context};
    encoder.run(runtime.data<const float>(states), runtime.data<const std::int64_t>(mask),
                bias != nullptr ? runtime.data<const float>(bias) : nullptr, bias_per_row, output,
                static_cast<std::size_t>(shape[0]), static_cast<std::size_t>(shape[1]), parallel_of(call, threads));
  }
};

struct LinearKernel {
  OrtApi runtime;
  Linear linear;
  ThreadCount threads;

  LinearKernel(const OrtApi& api, const KernelInfo* info)
      : runtime(api), linear(api.blob(info, 1, Kind::kLinear), choose_kernels()) {}

  void compute(KernelContext* context) {
    const Value* input = runtime.input(context, 0);
    auto shape = runtime.shape(input);
    if (shape.empty() || shape.back() != static_cast<std::int64_t>(linear.columns()))
      bad_input("the last dimension of the activations must be " + std::to_string(linear.columns()));
    std::size_t tokens = 1;
    for (std::size_t i = 0; i + 1 < shape.size(); ++i) tokens *= static_cast<std::size_t>(shape[i]);
    shape.back() = linear.rows();
    Call call{runtime, context};
    linear.run(runtime.data<const float>(input), runtime.output(context, shape), tokens, parallel_of(call, threads));
  }
};

template <class Body>
Status* guarded(const OrtApi& runtime, Body&& body) {
  try {
    body();
    return nullptr;
  } catch (const OpError& error) {
    return runtime.status(error);
  } catch (const BlobError& error) {
    return runtime.status({kInvalidGraph, std::string("sparserve: ") + error.what()});
  } catch (const std::invalid_argument& error) {
    return runtime.status({kInvalidArgument, std::string("sparserve: ") + error.what()});
  } catch (const std::exception& error) {
    return runtime.status({kFail, std::string("sparserve: ") + error.what()});
  }
}

// Operator tables. Inputs are listed by type; those from index `required` are optional.
struct Signature {
  const char* name;
  std::vector<ElementType> inputs;
  std::size_t required;
};

struct Operator : CustomOp {
  Signature signature;
};

const Signature& signature_of(const CustomOp* op) { return static_cast<const Operator*>(op)->signature; }

template <class Kernel>
Operator make_operator(Signature signature) {
  Operator op{};
  op.signature = std::move(signature);
  op.version = kApiVersion;
  op.GetName = [](const CustomOp* self) { return signature_of(self).name; };
  op.GetExecutionProviderType = [](const CustomOp*) -> const char* { return "CPUExecutionProvider"; };
  op.GetInputType = [](const CustomOp* self, std::size_t i) { return signature_of(self).inputs[i]; };
  op.GetInputTypeCount = [](const CustomOp* self) { return signature_of(self).inputs.size(); };
  op.GetOutputType = [](const CustomOp*, std::size_t) { return kFloat; };
  op.GetOutputTypeCount = [](const CustomOp*) { return std::size_t{1}; };
  op.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  op.GetInputCharacteristic = [](const CustomOp* self, std::size_t i) {
    return i < signature_of(self).required ? kRequired : kOptional;
  };
  op.GetOutputCharacteristic = [](const CustomOp*, std::size_t) { return kRequired; };
  op.GetInputMemoryType = [](const CustomOp*, std::size_t) { return kDefaultMemory; };
  op.GetVariadicInputMinArity = [](const CustomOp*) { return 1; };
  op.GetVariadicInputHomogeneity = [](const CustomOp*) { return 1; };
  op.GetVariadicOutputMinArity = [](const CustomOp*) { return 1; };
  op.GetVariadicOutputHomogeneity = [](const CustomOp*) { return 1; };
  op.CreateKernelV2 = [](const CustomOp*, const Api* api, const KernelInfo* info, void** kernel) {
    const OrtApi runtime(api);
    return guarded(runtime, [&] { *kernel = new Kernel(runtime, info); });
  };
  op.KernelComputeV2 = [](void* kernel, KernelContext* context) {
    auto* mine = static_cast<Kernel*>(kernel);
    return guarded(mine->runtime, [&] { mine->compute(context); });
  };
  op.GetStartVersion = [](const CustomOp*) { return 1; };
  op.GetEndVersion = [](const CustomOp*) { return 1; };
  op.GetMayInplace = [](int**, int**) { return std::size_t{0}; };
  op.ReleaseMayInplace = [](int*, int*) {};
  op.GetAliasMap = [](int**, int**) { return std::size_t{0}; };
  op.ReleaseAliasMap = [](int*, int*) {};
  return op;
}

}  // namespace
}  // namespace sparserve

// Entry point: onnxruntime calls it when a session's options name this library.
SPARSERVE_EXPORT sparserve::ort::Status* RegisterCustomOps(sparserve::ort::SessionOptions* options,
                                                           const sparserve::ort::ApiBase* base) {
  using namespace sparserve;
  using namespace sparserve::ort;
  const Api* api = base->GetApi(kApiVersion);
  if (api == nullptr) {
    // The runtime is older. Version 1 exists in all of them and can return the message.
    const std::string message = std::string("sparserve needs onnxruntime 1.17 or newer; this is ") +
                                base->GetVersionString() + ". Upgrade it, or serve model.onnx instead";
    return OrtApi(base->GetApi(1)).status({kFail, message});
  }
  const OrtApi runtime(api);
  static const Operator encoder =
      make_operator<EncoderKernel>({"SparseEncoder", {kFloat, kInt64, kUint8, kFloat}, 3});
  static const Operator linear = make_operator<LinearKernel>({"SparseLinear", {kFloat, kUint8}, 2});
  return guarded(runtime, [&] {
    // One domain for the lifetime of the process: sessions refer to it, and options may be reused.
    static CustomOpDomain* domain = [&] {
      CustomOpDomain* made = nullptr;
      runtime.call<CreateCustomOpDomain>(kCreateCustomOpDomain, "CreateCustomOpDomain", "sparserve", &made);
      runtime.call<CustomOpDomainAdd>(kCustomOpDomainAdd, "CustomOpDomain_Add", made,
                                      static_cast<const CustomOp*>(&encoder));
      runtime.call<CustomOpDomainAdd>(kCustomOpDomainAdd, "CustomOpDomain_Add", made,
                                      static_cast<const CustomOp*>(&linear));
      return made;
    }();
    runtime.call<AddCustomOpDomain>(kAddCustomOpDomain, "AddCustomOpDomain", options, domain);
  });
}

// Return the name of the kernels that this machine runs; null if SPARSERVE_ISA names unsupported ones.
SPARSERVE_EXPORT const char* sparserve_isa() {
  try {
    return sparserve::choose_kernels().traits.name;
  } catch (const std::exception&) {
    return nullptr;
  }
}

// Return the newest version of the packed format that the library reads.
SPARSERVE_EXPORT unsigned sparserve_format_version() { return sparserve::kFormatVersion; }

// Write the nanoseconds of each stage (kernels.h, Stage) since the last call, over all sessions; `on`: keep measuring.
SPARSERVE_EXPORT unsigned sparserve_profile(int on, std::uint64_t* nanoseconds) {
  sparserve::profile(on != 0, nanoseconds);
  return sparserve::kStages;
}
