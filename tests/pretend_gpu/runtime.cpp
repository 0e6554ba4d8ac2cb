// A pretended H200: the CUDA runtime, cuBLAS and cuBLASLt that PyTorch calls, without a device behind them.
//
// Loaded with LD_PRELOAD. Device memory is reserved address space that nobody can read; kernel launches are counted by name and dropped;
// copies are counted by direction and by whether the host's side is pinned; matrix products are counted in FLOPs by precision. Whatever
// makes the host wait is reported to a callback (counting.py), which notes the Python line that asked.
//
// Stream capture is a state machine: a launch on a capturing stream becomes a node of the graph, and what CUDA refuses inside a capture
// (a synchronisation, a copy from pageable memory, a launch on the legacy stream) returns CUDA's error, so that PyTorch raises.

#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>

using std::string;

namespace {

constexpr size_t kDeviceBytes = size_t(139) << 30;
constexpr size_t kRefusedBytes = size_t(1000) << 30;  // more than the device has, so that a step that does not fit can still be measured

// Never destroyed: PyTorch still calls us while the process ends.
template <class T>
T& forever() {
  static T* object = new T;
  return *object;
}

std::mutex guard;

struct Names : std::unordered_map<const void*, string> {};       // host function -> kernel
struct Counts : std::map<string, double> {};                     // what -> how much
struct Kernels : std::map<string, double> {};                    // kernel -> launches
struct Reserved : std::map<uintptr_t, size_t> {};                // device memory
struct Pinned : std::map<uintptr_t, size_t> {};                  // page-locked host memory
struct CapturingEvents : std::set<cudaEvent_t> {};               // recorded on a capturing stream
struct CapturingStreams : std::set<cudaStream_t> {};             // the capture's stream, and those that wait for its events

using Callback = void (*)(const char* what, double amount);
Callback callback = nullptr;

void add(const string& what, double amount = 1) {
  std::lock_guard<std::mutex> lock(guard);
  forever<Counts>()[what] += amount;
}

// Counts, and tells Python, which knows the line that asked.
void tell(const string& what, double amount = 0) {
  add(what);
  if (callback) callback(what.c_str(), amount);
}

// ---- capture ----

bool capturing = false;
cudaStream_t origin = nullptr;
long captured = 0;

struct Graph {
  long nodes;
};

bool is_captured(cudaStream_t stream) {
  std::lock_guard<std::mutex> lock(guard);
  return capturing && forever<CapturingStreams>().count(stream);
}

cudaError_t refused(const char* what) {
  tell(string("refused in a capture: ") + what);
  return cudaErrorStreamCaptureUnsupported;
}

cudaError_t launch(const string& name, cudaStream_t stream) {
  bool inside = is_captured(stream);
  if (capturing && stream == nullptr) return refused("a launch on the legacy stream");
  std::lock_guard<std::mutex> lock(guard);
  if (inside) {
    captured++;
    forever<Counts>()["captured launches"]++;
    return cudaSuccess;
  }
  forever<Counts>()["launches"]++;
  forever<Kernels>()[name]++;
  return cudaSuccess;
}

// ---- memory ----

template <class T>
bool within(const void* pointer) {
  std::lock_guard<std::mutex> lock(guard);
  auto& ranges = forever<T>();
  auto found = ranges.upper_bound(uintptr_t(pointer));
  if (found == ranges.begin()) return false;
  --found;
  return uintptr_t(pointer) < found->first + found->second;
}

cudaError_t reserve(void** pointer, size_t bytes) {
  std::lock_guard<std::mutex> lock(guard);
  size_t used = 0;
  for (auto& range : forever<Reserved>()) used += range.second;
  if (used + bytes > kRefusedBytes) return cudaErrorMemoryAllocation;
  void* place = mmap(nullptr, bytes ? bytes : 1, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (place == MAP_FAILED) return cudaErrorMemoryAllocation;
  forever<Reserved>()[uintptr_t(place)] = bytes;
  *pointer = place;
  return cudaSuccess;
}

int single_byte = 0;  // what a single byte (a condition that the host asks for) reads as; everything else reads as zero

cudaError_t copied(void* to, const void* from, size_t bytes, bool async, cudaStream_t stream) {
  bool from_device = within<Reserved>(from), to_device = within<Reserved>(to);
  if (from_device && to_device) {
    add(is_captured(stream) ? "captured copies" : "copies on the device");
    if (is_captured(stream)) captured++;
    return cudaSuccess;
  }
  if (!from_device && !to_device) {
    memcpy(to, from, bytes);
    return cudaSuccess;
  }
  bool pinned = within<Pinned>(to_device ? from : to);
  if (is_captured(stream) && !(pinned && async)) return refused("a copy that the host waits for");
  if (from_device) memset(to, bytes == 1 ? single_byte : 0, bytes);  // there are no values
  string what = string("copy ") + (to_device ? "to the device" : "to the host") + (pinned ? ", pinned" : ", pageable");
  add(what + ", bytes", double(bytes));
  tell(what, double(bytes));
  return cudaSuccess;
}

cudaError_t waited(const char* what) {
  if (capturing) return refused(what);
  tell(string("wait: ") + what);
  return cudaSuccess;
}

// ---- products ----

constexpr int kFastTf32 = 77, kTf32Math = 3;  // cublasComputeType_t, cublasMath_t
int math_mode = 0;
cudaStream_t blas_stream = nullptr;

enum Type { kFp32 = 0, kFp64 = 1, kFp16 = 2, kBf16 = 14 };  // cudaDataType

const char* precision(int type, int compute) {
  if (type == kBf16) return "bf16";
  if (type == kFp16) return "fp16";
  if (type == kFp64) return "fp64";
  if (type == kFp32) return compute == kFastTf32 ? "tf32" : "fp32";
  return "other";
}

int product(const char* function, const char* type, double m, double n, double k, double batch, cudaStream_t stream) {
  if (launch(function, stream) != cudaSuccess) return 13;  // CUBLAS_STATUS_EXECUTION_FAILED
  double flops = 2 * m * n * k * batch;
  string what = string("product ") + type;
  add(what + ", FLOP", flops);
  if (!strcmp(type, "fp32") || !strcmp(type, "tf32"))
    tell(what, flops);
  else
    add(what);
  return 0;
}

const char* single() { return math_mode == kTf32Math ? "tf32" : "fp32"; }

void describe(cudaDeviceProp* p) {
  memset(p, 0, sizeof *p);
  strcpy(p->name, "Pretended H200");
  p->major = 9;
  p->minor = 0;
  p->multiProcessorCount = 132;
  p->totalGlobalMem = kDeviceBytes;
  p->sharedMemPerBlock = 49152;
  p->sharedMemPerMultiprocessor = 233472;
  p->sharedMemPerBlockOptin = 232448;
  p->regsPerBlock = p->regsPerMultiprocessor = 65536;
  p->warpSize = 32;
  p->maxThreadsPerBlock = 1024;
  p->maxThreadsPerMultiProcessor = 2048;
  p->maxBlocksPerMultiProcessor = 32;
  p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
  p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = 2147483647;
  p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->l2CacheSize = 62914560;
  p->memoryBusWidth = 6144;
  p->totalConstMem = 65536;
  p->concurrentKernels = p->unifiedAddressing = p->canMapHostMemory = p->cooperativeLaunch = 1;
  p->textureAlignment = 512;
  p->pciBusID = 1;
  p->memPitch = 2147483647;
}

uintptr_t next_handle = 0x1000;

template <class T>
cudaError_t handle(T* out) {
  std::lock_guard<std::mutex> lock(guard);
  *out = T(next_handle += 16);
  return cudaSuccess;
}

int no_op() { return 0; }
int primary_context(int, unsigned* flags, int* active) {
  if (flags) *flags = 0;
  if (active) *active = 1;
  return 0;
}

}  // namespace

#define OK return cudaSuccess

extern "C" {

// ---- for counting.py and driver.cpp ----

void pretend_listen(Callback listener) { callback = listener; }

void pretend_reset() {
  std::lock_guard<std::mutex> lock(guard);
  forever<Counts>().clear();
  forever<Kernels>().clear();
}

void pretend_write(const char* path) {
  std::lock_guard<std::mutex> lock(guard);
  FILE* file = fopen(path, "w");
  for (auto& entry : forever<Counts>()) fprintf(file, "count\t%s\t%.17g\n", entry.first.c_str(), entry.second);
  for (auto& entry : forever<Kernels>()) fprintf(file, "kernel\t%s\t%.17g\n", entry.first.c_str(), entry.second);
  fclose(file);
}

void pretend_conditions(int value) { single_byte = value; }

int pretend_launch(const char* name, void* stream) { return launch(name, cudaStream_t(stream)); }

// ---- device ----

cudaError_t cudaGetDeviceCount(int* n) { *n = 1; OK; }
cudaError_t cudaGetDevice(int* device) { *device = 0; OK; }
cudaError_t cudaSetDevice(int) { OK; }
cudaError_t cudaDriverGetVersion(int* version) { *version = 13020; OK; }
cudaError_t cudaRuntimeGetVersion(int* version) { *version = 13020; OK; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) { describe(p); OK; }

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = 132; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 232448; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 49152; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = 233472; break;
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    case cudaDevAttrMaxRegistersPerBlock: *value = 65536; break;
    case cudaDevAttrMaxRegistersPerMultiprocessor: *value = 65536; break;
    case cudaDevAttrMaxGridDimX: *value = 2147483647; break;
    case cudaDevAttrMaxGridDimY: *value = 65535; break;
    case cudaDevAttrMaxGridDimZ: *value = 65535; break;
    case cudaDevAttrClockRate: *value = 1980000; break;
    case cudaDevAttrL2CacheSize: *value = 62914560; break;
    default: *value = 1;
  }
  OK;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  OK;
}
cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) { *can = 0; OK; }
cudaError_t cudaDeviceGetPCIBusId(char* text, int bytes, int) { snprintf(text, bytes, "0000:01:00.0"); OK; }
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) { *pool = nullptr; OK; }
cudaError_t cudaDeviceSynchronize() { return waited("device"); }
cudaError_t cudaGetLastError() { OK; }
cudaError_t cudaPeekAtLastError() { OK; }
const char* cudaGetErrorString(cudaError_t error) {
  if (error == cudaErrorMemoryAllocation) return "out of pretended memory";
  return error == cudaErrorStreamCaptureUnsupported ? "operation not permitted when stream is capturing" : "an error of the pretended device";
}
const char* cudaGetErrorName(cudaError_t error) { return cudaGetErrorString(error); }
cudaError_t cudaProfilerStart() { OK; }
cudaError_t cudaProfilerStop() { OK; }

// ---- memory ----

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  add("cudaMalloc");
  return reserve(pointer, bytes);
}
cudaError_t cudaFree(void* pointer) {
  if (!pointer) OK;
  std::lock_guard<std::mutex> lock(guard);
  auto& ranges = forever<Reserved>();
  auto found = ranges.find(uintptr_t(pointer));
  if (found != ranges.end()) {
    munmap(pointer, found->second ? found->second : 1);
    ranges.erase(found);
  }
  OK;
}
cudaError_t cudaMallocAsync(void** pointer, size_t bytes, cudaStream_t) { return cudaMalloc(pointer, bytes); }
cudaError_t cudaFreeAsync(void* pointer, cudaStream_t) { return cudaFree(pointer); }

cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
  *pointer = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  add("cudaHostAlloc");
  std::lock_guard<std::mutex> lock(guard);
  forever<Pinned>()[uintptr_t(*pointer)] = bytes;
  OK;
}
cudaError_t cudaMallocHost(void** pointer, size_t bytes) { return cudaHostAlloc(pointer, bytes, 0); }
cudaError_t cudaHostRegister(void* pointer, size_t bytes, unsigned) {
  std::lock_guard<std::mutex> lock(guard);
  forever<Pinned>()[uintptr_t(pointer)] = bytes;
  OK;
}
cudaError_t cudaHostUnregister(void* pointer) {
  std::lock_guard<std::mutex> lock(guard);
  forever<Pinned>().erase(uintptr_t(pointer));
  OK;
}
cudaError_t cudaFreeHost(void* pointer) {
  cudaHostUnregister(pointer);
  free(pointer);
  OK;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  memset(attributes, 0, sizeof *attributes);
  attributes->type = within<Reserved>(pointer) ? cudaMemoryTypeDevice
                     : within<Pinned>(pointer) ? cudaMemoryTypeHost
                                               : cudaMemoryTypeUnregistered;
  attributes->devicePointer = const_cast<void*>(pointer);
  OK;
}
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total) { *free_bytes = *total = kDeviceBytes; OK; }

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) { return copied(to, from, bytes, false, nullptr); }
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  return copied(to, from, bytes, true, stream);
}
cudaError_t cudaMemcpyPeerAsync(void*, int, const void*, int, size_t, cudaStream_t) { OK; }
cudaError_t cudaMemcpy2DAsync(void*, size_t, const void*, size_t, size_t, size_t, cudaMemcpyKind, cudaStream_t) {
  add("copies 2D");
  OK;
}
cudaError_t cudaMemset(void*, int, size_t) { add("memset"); OK; }
cudaError_t cudaMemsetAsync(void*, int, size_t, cudaStream_t stream) {
  if (is_captured(stream)) captured++;
  add(is_captured(stream) ? "captured memsets" : "memset");
  OK;
}
cudaError_t cudaMemcpyToSymbol(const void*, const void*, size_t, size_t, cudaMemcpyKind) { OK; }
cudaError_t cudaGetSymbolAddress(void** pointer, const void*) { *pointer = (void*)0x1000; OK; }

// ---- streams and events ----

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) { return handle(stream); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return handle(stream); }
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return handle(stream); }
cudaError_t cudaStreamDestroy(cudaStream_t) { OK; }
cudaError_t cudaStreamQuery(cudaStream_t) { OK; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return waited("stream"); }
cudaError_t cudaStreamGetPriority(cudaStream_t, int* priority) { *priority = 0; OK; }
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  std::lock_guard<std::mutex> lock(guard);
  if (capturing && forever<CapturingEvents>().count(event)) forever<CapturingStreams>().insert(stream);
  OK;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return handle(event); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return handle(event); }
cudaError_t cudaEventDestroy(cudaEvent_t) { OK; }
cudaError_t cudaEventQuery(cudaEvent_t) { OK; }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  bool inside = is_captured(stream);
  std::lock_guard<std::mutex> lock(guard);
  if (inside)
    forever<CapturingEvents>().insert(event);
  else
    forever<CapturingEvents>().erase(event);
  OK;
}
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) { return cudaEventRecord(event, stream); }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return waited("event"); }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) { *milliseconds = 1; OK; }

// ---- capture ----

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream == nullptr || capturing) return refused("the begin of a capture");
  std::lock_guard<std::mutex> lock(guard);
  capturing = true;
  origin = stream;
  captured = 0;
  forever<CapturingStreams>() = {};
  forever<CapturingStreams>().insert(stream);
  OK;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  std::lock_guard<std::mutex> lock(guard);
  if (!capturing || stream != origin) return cudaErrorStreamCaptureUnmatched;
  capturing = false;
  forever<CapturingStreams>().clear();
  forever<CapturingEvents>().clear();
  *graph = cudaGraph_t(new Graph{captured});
  OK;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = is_captured(stream) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  OK;
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status, unsigned long long* id, cudaGraph_t* graph,
                                     const cudaGraphNode_t** nodes, const cudaGraphEdgeData** edges, size_t* count) {
  bool inside = is_captured(stream);
  if (status) *status = inside ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  if (id) *id = inside;
  if (graph) *graph = nullptr;
  if (nodes) *nodes = nullptr;
  if (edges) *edges = nullptr;
  if (count) *count = 0;
  OK;
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { OK; }
cudaError_t cudaStreamUpdateCaptureDependencies(cudaStream_t, cudaGraphNode_t*, const cudaGraphEdgeData*, size_t, unsigned) { OK; }
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, size_t* count) { *count = ((Graph*)graph)->nodes; OK; }
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = cudaGraphExec_t(new Graph(*(Graph*)graph));
  OK;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long flags) {
  return cudaGraphInstantiateWithFlags(executable, graph, flags);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t) {
  add("graph launches");
  add("graph nodes", ((Graph*)executable)->nodes);
  OK;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { OK; }
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { delete (Graph*)graph; OK; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) { delete (Graph*)executable; OK; }
cudaError_t cudaGraphRetainUserObject(cudaGraph_t, cudaUserObject_t, unsigned, unsigned) { OK; }
cudaError_t cudaUserObjectCreate(cudaUserObject_t* object, void*, cudaHostFn_t, unsigned, unsigned) { return handle(object); }
cudaError_t cudaDeviceGetGraphMemAttribute(int, cudaGraphMemAttributeType, void* value) { *(uint64_t*)value = 0; OK; }
cudaError_t cudaDeviceSetGraphMemAttribute(int, cudaGraphMemAttributeType, void*) { OK; }

// ---- kernels ----

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  memset(attributes, 0, sizeof *attributes);
  attributes->maxThreadsPerBlock = 1024;
  attributes->numRegs = 32;
  attributes->ptxVersion = attributes->binaryVersion = 90;
  attributes->maxDynamicSharedSizeBytes = 232448;
  OK;
}
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { OK; }
cudaError_t cudaKernelSetAttributeForDevice(cudaKernel_t, cudaFuncAttribute, int, int) { OK; }
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int, size_t) { *blocks = 2; OK; }
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int, size_t, unsigned) { *blocks = 2; OK; }

void** __cudaRegisterFatBinary(void*) {
  static void* binary;
  return &binary;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
void __cudaRegisterFunction(void**, const char* host, char*, const char* device, int, void*, void*, void*, void*, int*) {
  std::lock_guard<std::mutex> lock(guard);
  forever<Names>()[host] = device;
}

static thread_local struct {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
} pushed;

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
  pushed = {grid, block, shared, stream};
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  *grid = pushed.grid;
  *block = pushed.block;
  *shared = pushed.shared;
  *(cudaStream_t*)stream = pushed.stream;
  OK;
}

static string name_of(const void* function) {
  std::lock_guard<std::mutex> lock(guard);
  auto found = forever<Names>().find(function);
  return found == forever<Names>().end() ? string("?") : found->second;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) { *kernel = cudaKernel_t(function); OK; }
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3, dim3, void**, size_t, cudaStream_t stream) {
  return launch(name_of((const void*)kernel), stream);
}
cudaError_t cudaLaunchKernel(const void* function, dim3, dim3, void**, size_t, cudaStream_t stream) {
  return launch(name_of(function), stream);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void**) {
  return launch(name_of(function), config->stream);
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  *function = strcmp(symbol, "cuDevicePrimaryCtxGetState") ? (void*)no_op : (void*)primary_context;
  if (result) *result = cudaDriverEntryPointSuccess;
  OK;
}

// ---- cuBLAS (plain types: its headers are not installed with PyTorch) ----

int cublasCreate_v2(void** handle_) { *handle_ = (void*)0xB1A5; return 0; }
int cublasDestroy_v2(void*) { return 0; }
int cublasSetStream_v2(void*, void* stream) { blas_stream = cudaStream_t(stream); return 0; }
int cublasSetWorkspace_v2(void*, void*, size_t) { return 0; }
int cublasSetMathMode(void*, int mode) { math_mode = mode; return 0; }
int cublasGetMathMode(void*, int* mode) { *mode = math_mode; return 0; }
int cublasGetPointerMode_v2(void*, int* mode) { *mode = 0; return 0; }
int cublasSetPointerMode_v2(void*, int) { return 0; }
int cublasSetSmCountTarget(void*, int) { return 0; }

int cublasGemmEx(void*, int, int, int m, int n, int k, const void*, const void*, int type, int, const void*, int, int, const void*, void*,
                 int, int, int compute, int) {
  return product("cublasGemmEx", precision(type, compute), m, n, k, 1, blas_stream);
}
int cublasGemmStridedBatchedEx(void*, int, int, int m, int n, int k, const void*, const void*, int type, int, long long, const void*, int,
                               int, long long, const void*, void*, int, int, long long, int batch, int compute, int) {
  return product("cublasGemmStridedBatchedEx", precision(type, compute), m, n, k, batch, blas_stream);
}
int cublasSgemm_v2(void*, int, int, int m, int n, int k, const void*, const void*, int, const void*, int, const void*, void*, int) {
  return product("cublasSgemm", single(), m, n, k, 1, blas_stream);
}
int cublasSgemmEx(void*, int, int, int m, int n, int k, const void*, const void*, int type, int, const void*, int, int, const void*, void*,
                  int, int) {
  return product("cublasSgemmEx", type == kFp32 ? single() : precision(type, 0), m, n, k, 1, blas_stream);
}
int cublasSgemmStridedBatched(void*, int, int, int m, int n, int k, const void*, const void*, int, long long, const void*, int, long long,
                              const void*, void*, int, long long, int batch) {
  return product("cublasSgemmStridedBatched", single(), m, n, k, batch, blas_stream);
}
int cublasDgemm_v2(void*, int, int, int m, int n, int k, const void*, const void*, int, const void*, int, const void*, void*, int) {
  return product("cublasDgemm", "fp64", m, n, k, 1, blas_stream);
}
int cublasDgemmStridedBatched(void*, int, int, int m, int n, int k, const void*, const void*, int, long long, const void*, int, long long,
                              const void*, void*, int, long long, int batch) {
  return product("cublasDgemmStridedBatched", "fp64", m, n, k, batch, blas_stream);
}
int cublasSgemv_v2(void*, int, int m, int n, const void*, const void*, int, const void*, int, const void*, void*, int) {
  return product("cublasSgemv", "fp32", m, n, 1, 1, blas_stream);
}
int cublasDgemv_v2(void*, int, int m, int n, const void*, const void*, int, const void*, int, const void*, void*, int) {
  return product("cublasDgemv", "fp64", m, n, 1, 1, blas_stream);
}
int cublasSdot_v2(void*, int, const void*, int, const void*, int, void*) { return launch("cublasSdot", blas_stream); }
int cublasDdot_v2(void*, int, const void*, int, const void*, int, void*) { return launch("cublasDdot", blas_stream); }
int cublasDotEx(void*, int, const void*, int, int, const void*, int, int, void*, int, int) { return launch("cublasDotEx", blas_stream); }
int cublasStrsm_v2() { return launch("cublasStrsm", blas_stream); }
int cublasDtrsm_v2() { return launch("cublasDtrsm", blas_stream); }

// ---- cuBLASLt: layouts remember their sides, descriptions their transpositions ----

struct Layout {
  int type;
  uint64_t rows, columns;
  int batch;
};
struct Description {
  int compute, scale, transpose_a, transpose_b;
};
struct Heuristic {
  uint64_t algorithm[8];
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};

int cublasLtCreate(void** handle_) { *handle_ = (void*)0x17; return 0; }
size_t cublasLtGetVersion() { return 130400; }
int cublasLtMatmulDescCreate(Description** out, int compute, int scale) { *out = new Description{compute, scale, 0, 0}; return 0; }
int cublasLtMatmulDescDestroy(Description* description) { delete description; return 0; }
int cublasLtMatmulDescSetAttribute(Description* description, int attribute, const void* value, size_t) {
  if (attribute == 3) description->transpose_a = *(const int*)value;
  if (attribute == 4) description->transpose_b = *(const int*)value;
  return 0;
}
int cublasLtMatrixLayoutCreate(Layout** out, int type, uint64_t rows, uint64_t columns, int64_t) {
  *out = new Layout{type, rows, columns, 1};
  return 0;
}
int cublasLtMatrixLayoutDestroy(Layout* layout) { delete layout; return 0; }
int cublasLtMatrixLayoutSetAttribute(Layout* layout, int attribute, const void* value, size_t) {
  if (attribute == 5) layout->batch = *(const int*)value;
  return 0;
}
int cublasLtMatmulPreferenceCreate(void** preference) { *preference = malloc(8); return 0; }
int cublasLtMatmulPreferenceDestroy(void* preference) { free(preference); return 0; }
int cublasLtMatmulPreferenceSetAttribute(void*, int, const void*, size_t) { return 0; }
int cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void*, int, Heuristic* found, int* count) {
  memset(found, 0, sizeof *found);
  *count = 1;
  return 0;
}
int cublasLtMatmul(void*, Description* description, const void*, const void*, Layout* a, const void*, Layout*, const void*, const void*,
                   Layout*, void*, Layout* out, const void*, void*, size_t, void* stream) {
  double inner = description->transpose_a ? a->rows : a->columns;
  return product("cublasLtMatmul", precision(a->type, description->compute), out->rows, out->columns, inner, a->batch,
                 cudaStream_t(stream));
}

}  // extern "C"
