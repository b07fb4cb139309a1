// Compare abi.h with ONNX Runtime's own header where one is installed; elsewhere the file is empty. `make -C tests abi`
// requires the header.
#if __has_include(<onnxruntime_c_api.h>)
#define SPARSERVE_HAS_HEADER
#include <onnxruntime_c_api.h>
#elif __has_include(<onnxruntime/onnxruntime_c_api.h>)
#define SPARSERVE_HAS_HEADER
#include <onnxruntime/onnxruntime_c_api.h>
#elif __has_include(<onnxruntime/core/session/onnxruntime_c_api.h>)
#define SPARSERVE_HAS_HEADER
#include <onnxruntime/core/session/onnxruntime_c_api.h>
#endif

#if defined(SPARSERVE_REQUIRE_HEADER) && !defined(SPARSERVE_HAS_HEADER)
#error "onnxruntime_c_api.h was not found: name its folder with ORT_INCLUDE"
#endif

#ifdef SPARSERVE_HAS_HEADER
#include "ort/abi.h"

namespace sparserve::ort {

#define SAME_INDEX(index, member) \
  static_assert(offsetof(OrtApi, member) == index * sizeof(void*), #member " has another place in OrtApi")
SAME_INDEX(kCreateStatus, CreateStatus);
SAME_INDEX(kGetErrorMessage, GetErrorMessage);
SAME_INDEX(kCreateCustomOpDomain, CreateCustomOpDomain);
SAME_INDEX(kCustomOpDomainAdd, CustomOpDomain_Add);
SAME_INDEX(kAddCustomOpDomain, AddCustomOpDomain);
SAME_INDEX(kGetTensorMutableData, GetTensorMutableData);
SAME_INDEX(kGetDimensionsCount, GetDimensionsCount);
SAME_INDEX(kGetDimensions, GetDimensions);
SAME_INDEX(kGetTensorTypeAndShape, GetTensorTypeAndShape);
SAME_INDEX(kKernelInfoGetAttributeInt64, KernelInfoGetAttribute_int64);
SAME_INDEX(kKernelContextGetInputCount, KernelContext_GetInputCount);
SAME_INDEX(kKernelContextGetInput, KernelContext_GetInput);
SAME_INDEX(kKernelContextGetOutput, KernelContext_GetOutput);
SAME_INDEX(kReleaseStatus, ReleaseStatus);
SAME_INDEX(kReleaseTensorTypeAndShapeInfo, ReleaseTensorTypeAndShapeInfo);
SAME_INDEX(kKernelInfoGetConstantInputTensor, KernelInfoGetConstantInput_tensor);
SAME_INDEX(kKernelContextParallelFor, KernelContext_ParallelFor);

#define SAME_SLOT(member) \
  static_assert(offsetof(OrtCustomOp, member) == offsetof(CustomOp, member), #member " has another place")
SAME_SLOT(version);
SAME_SLOT(CreateKernel);
SAME_SLOT(GetName);
SAME_SLOT(GetExecutionProviderType);
SAME_SLOT(GetInputType);
SAME_SLOT(GetInputTypeCount);
SAME_SLOT(GetOutputType);
SAME_SLOT(GetOutputTypeCount);
SAME_SLOT(KernelCompute);
SAME_SLOT(KernelDestroy);
SAME_SLOT(GetInputCharacteristic);
SAME_SLOT(GetOutputCharacteristic);
SAME_SLOT(GetInputMemoryType);
SAME_SLOT(GetVariadicInputMinArity);
SAME_SLOT(GetVariadicInputHomogeneity);
SAME_SLOT(GetVariadicOutputMinArity);
SAME_SLOT(GetVariadicOutputHomogeneity);
SAME_SLOT(CreateKernelV2);
SAME_SLOT(KernelComputeV2);
SAME_SLOT(InferOutputShapeFn);
SAME_SLOT(GetStartVersion);
SAME_SLOT(GetEndVersion);
#if ORT_API_VERSION >= 18
SAME_SLOT(GetMayInplace);
SAME_SLOT(ReleaseMayInplace);
SAME_SLOT(GetAliasMap);
SAME_SLOT(ReleaseAliasMap);
#endif

static_assert(offsetof(OrtApiBase, GetApi) == offsetof(ApiBase, GetApi));
static_assert(offsetof(OrtApiBase, GetVersionString) == offsetof(ApiBase, GetVersionString));
static_assert(int{kFail} == ORT_FAIL && int{kInvalidArgument} == ORT_INVALID_ARGUMENT);
static_assert(int{kInvalidGraph} == ORT_INVALID_GRAPH);
static_assert(int{kFloat} == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
static_assert(int{kUint8} == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8);
static_assert(int{kInt64} == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64);
static_assert(int{kRequired} == INPUT_OUTPUT_REQUIRED && int{kOptional} == INPUT_OUTPUT_OPTIONAL);
static_assert(int{kDefaultMemory} == OrtMemTypeDefault);

}  // namespace sparserve::ort
#endif
