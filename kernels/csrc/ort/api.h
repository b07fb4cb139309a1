// ONNX Runtime's C API for operators.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ort/abi.h"
#include "packed/blob.h"

namespace sparserve::ort {

struct OpError {
  ErrorCode code;
  std::string message;
};

// ONNX Runtime's functions as methods that throw. A failed call's status becomes an OpError with its message, by
// which the service recognizes an out-of-memory failure.
class OrtApi {
 public:
  explicit OrtApi(const Api* api) : api_(api) {}

  template <class Function, class... Arguments>
  void call(Index index, const char* what, Arguments... arguments) const {
    if (Status* status = function<Function>(api_, index)(arguments...)) {
      const std::unique_ptr<Status, ReleaseStatus> owned(status, function<ReleaseStatus>(api_, kReleaseStatus));
      throw OpError{kFail, std::string("onnxruntime's ") + what + " failed: " +
                               function<GetErrorMessage>(api_, kGetErrorMessage)(status)};
    }
  }

  Status* status(const OpError& error) const {
    return function<CreateStatus>(api_, kCreateStatus)(error.code, error.message.c_str());
  }

  std::vector<std::int64_t> shape(const Value* value) const {
    TensorTypeAndShapeInfo* info = nullptr;
    call<GetTensorTypeAndShape>(kGetTensorTypeAndShape, "GetTensorTypeAndShape", value, &info);
    const std::unique_ptr<TensorTypeAndShapeInfo, ReleaseTensorTypeAndShapeInfo> owned(
        info, function<ReleaseTensorTypeAndShapeInfo>(api_, kReleaseTensorTypeAndShapeInfo));
    std::size_t rank = 0;
    call<GetDimensionsCount>(kGetDimensionsCount, "GetDimensionsCount", info, &rank);
    std::vector<std::int64_t> dimensions(rank);
    call<GetDimensions>(kGetDimensions, "GetDimensions", info, dimensions.data(), rank);
    return dimensions;
  }

  template <class T>
  T* data(const Value* value) const {
    void* pointer = nullptr;
    call<GetTensorMutableData>(kGetTensorMutableData, "GetTensorMutableData", const_cast<Value*>(value), &pointer);
    return static_cast<T*>(pointer);
  }

  const Value* input(const KernelContext* context, std::size_t index) const {
    const Value* value = nullptr;
    call<KernelContextGetInput>(kKernelContextGetInput, "KernelContext_GetInput", context, index, &value);
    return value;
  }

  std::size_t input_count(const KernelContext* context) const {
    std::size_t count = 0;
    call<KernelContextGetInputCount>(kKernelContextGetInputCount, "KernelContext_GetInputCount", context, &count);
    return count;
  }

  float* output(KernelContext* context, const std::vector<std::int64_t>& shape) const {
    Value* value = nullptr;
    call<KernelContextGetOutput>(kKernelContextGetOutput, "KernelContext_GetOutput", context, std::size_t{0},
                                 shape.data(), shape.size(), &value);
    return data<float>(value);
  }

  std::int64_t attribute(const KernelInfo* info, const char* name, std::int64_t fallback) const {
    std::int64_t value = fallback;
    if (Status* status = function<KernelInfoGetAttributeInt64>(api_, kKernelInfoGetAttributeInt64)(info, name, &value)) {
      function<ReleaseStatus>(api_, kReleaseStatus)(status);  // the attribute is missing
      return fallback;
    }
    return value;
  }

  // Read the packed weights; input `index` must be an initializer of bytes.
  Blob blob(const KernelInfo* info, std::size_t index, Kind kind) const {
    int constant = 0;
    const Value* value = nullptr;
    call<KernelInfoGetConstantInputTensor>(kKernelInfoGetConstantInputTensor, "KernelInfoGetConstantInput_tensor", info,
                                           index, &constant, &value);
    if (constant == 0 || value == nullptr)
      throw OpError{kInvalidGraph, "sparserve: the packed weights must be an initializer of the graph"};
    std::size_t count = 1;
    for (const std::int64_t dimension : shape(value)) count *= static_cast<std::size_t>(dimension);
    Blob blob = parse({data<const std::uint8_t>(value), count});
    if (blob.kind != kind) throw OpError{kInvalidGraph, "sparserve: these packed weights belong to the other operator"};
    return blob;
  }

  void parallel_for(const KernelContext* context, void (*task)(void*, std::size_t), std::size_t count,
                    void* task_data) const {
    call<KernelContextParallelFor>(kKernelContextParallelFor, "KernelContext_ParallelFor", context, task, count, count,
                                   task_data);
  }

 private:
  const Api* api_;
};

}  // namespace sparserve::ort
