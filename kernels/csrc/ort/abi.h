// The part of ONNX Runtime's C ABI that a custom-op library needs, declared by hand.
//
// onnxruntime's wheels carry no headers. Its C ABI is append-only: a function never changes its place in OrtApi, so the
// few that are used are named by their index. abi_check.cpp compares these declarations with the official header where
// one is installed. Version 17 of the API is requested, the oldest with KernelContext_ParallelFor; every newer runtime
// provides it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sparserve::ort {

inline constexpr std::uint32_t kApiVersion = 17;

// Opaque types.
struct Status;
struct Value;
struct KernelInfo;
struct KernelContext;
struct SessionOptions;
struct CustomOpDomain;
struct TensorTypeAndShapeInfo;
struct ShapeInferContext;

enum ErrorCode : int { kFail = 1, kInvalidArgument = 2, kInvalidGraph = 10 };
enum ElementType : int { kFloat = 1, kUint8 = 2, kInt64 = 7 };
enum Characteristic : int { kRequired = 0, kOptional = 1 };
enum MemoryType : int { kDefaultMemory = 0 };

// OrtApi: a table of function pointers, of which these are used.
struct Api {
  void* const* entries() const { return reinterpret_cast<void* const*>(this); }
};

struct ApiBase {
  const Api* (*GetApi)(std::uint32_t version);
  const char* (*GetVersionString)();
};

enum Index : std::size_t {
  kCreateStatus = 0,
  kGetErrorMessage = 2,
  kCreateCustomOpDomain = 26,
  kCustomOpDomainAdd = 27,
  kAddCustomOpDomain = 28,
  kGetTensorMutableData = 51,
  kGetDimensionsCount = 61,
  kGetDimensions = 62,
  kGetTensorTypeAndShape = 65,
  kKernelInfoGetAttributeInt64 = 86,
  kKernelContextGetInputCount = 88,
  kKernelContextGetInput = 90,
  kKernelContextGetOutput = 91,
  kReleaseStatus = 93,
  kReleaseTensorTypeAndShapeInfo = 99,
  kKernelInfoGetConstantInputTensor = 249,
  kKernelContextParallelFor = 274,
};

using CreateStatus = Status* (*)(ErrorCode, const char*);
using CreateCustomOpDomain = Status* (*)(const char*, CustomOpDomain**);
using CustomOpDomainAdd = Status* (*)(CustomOpDomain*, const struct CustomOp*);
using AddCustomOpDomain = Status* (*)(SessionOptions*, CustomOpDomain*);
using GetTensorMutableData = Status* (*)(Value*, void**);
using GetDimensionsCount = Status* (*)(const TensorTypeAndShapeInfo*, std::size_t*);
using GetDimensions = Status* (*)(const TensorTypeAndShapeInfo*, std::int64_t*, std::size_t);
using GetTensorTypeAndShape = Status* (*)(const Value*, TensorTypeAndShapeInfo**);
using KernelInfoGetAttributeInt64 = Status* (*)(const KernelInfo*, const char*, std::int64_t*);
using KernelContextGetInputCount = Status* (*)(const KernelContext*, std::size_t*);
using KernelContextGetInput = Status* (*)(const KernelContext*, std::size_t, const Value**);
using KernelContextGetOutput = Status* (*)(KernelContext*, std::size_t, const std::int64_t*, std::size_t, Value**);
using GetErrorMessage = const char* (*)(const Status*);
using ReleaseStatus = void (*)(Status*);
using ReleaseTensorTypeAndShapeInfo = void (*)(TensorTypeAndShapeInfo*);
using KernelInfoGetConstantInputTensor = Status* (*)(const KernelInfo*, std::size_t, int*, const Value**);
using KernelContextParallelFor = Status* (*)(const KernelContext*, void (*)(void*, std::size_t), std::size_t,
                                             std::size_t, void*);

template <class Function>
Function function(const Api* api, Index index) {
  return reinterpret_cast<Function>(api->entries()[index]);
}

// OrtCustomOp: 26 slots, in the official header's order.
struct CustomOp {
  std::uint32_t version;
  void* (*CreateKernel)(const CustomOp*, const Api*, const KernelInfo*);
  const char* (*GetName)(const CustomOp*);
  const char* (*GetExecutionProviderType)(const CustomOp*);
  ElementType (*GetInputType)(const CustomOp*, std::size_t);
  std::size_t (*GetInputTypeCount)(const CustomOp*);
  ElementType (*GetOutputType)(const CustomOp*, std::size_t);
  std::size_t (*GetOutputTypeCount)(const CustomOp*);
  void (*KernelCompute)(void*, KernelContext*);
  void (*KernelDestroy)(void*);
  Characteristic (*GetInputCharacteristic)(const CustomOp*, std::size_t);
  Characteristic (*GetOutputCharacteristic)(const CustomOp*, std::size_t);
  MemoryType (*GetInputMemoryType)(const CustomOp*, std::size_t);
  int (*GetVariadicInputMinArity)(const CustomOp*);
  int (*GetVariadicInputHomogeneity)(const CustomOp*);
  int (*GetVariadicOutputMinArity)(const CustomOp*);
  int (*GetVariadicOutputHomogeneity)(const CustomOp*);
  Status* (*CreateKernelV2)(const CustomOp*, const Api*, const KernelInfo*, void**);
  Status* (*KernelComputeV2)(void*, KernelContext*);
  Status* (*InferOutputShapeFn)(const CustomOp*, ShapeInferContext*);
  int (*GetStartVersion)(const CustomOp*);
  int (*GetEndVersion)(const CustomOp*);
  std::size_t (*GetMayInplace)(int**, int**);
  void (*ReleaseMayInplace)(int*, int*);
  std::size_t (*GetAliasMap)(int**, int**);
  void (*ReleaseAliasMap)(int*, int*);
};
static_assert(sizeof(CustomOp) == 26 * sizeof(void*));

}  // namespace sparserve::ort
