// A pretended CUDA driver (libcuda.so.1) for Triton: modules load, functions are known by name, launches are counted in runtime.cpp.
// Everything that PyTorch or Triton only looks up answers "success".

#include <cstdlib>
#include <cstring>

extern "C" {

int pretend_launch(const char* name, void* stream) __attribute__((weak));
int cudaDeviceGetAttribute(int* value, int attribute, int device) __attribute__((weak));

static void* const kContext = (void*)0xC0;

int cuDevicePrimaryCtxGetState(int, unsigned* flags, int* active) {
  if (flags) *flags = 0;
  if (active) *active = 1;
  return 0;
}
int cuDevicePrimaryCtxRetain(void** context, int) { *context = kContext; return 0; }
int cuDeviceGetCount(int* count) { *count = 1; return 0; }
int cuDeviceGet(int* device, int) { *device = 0; return 0; }
int cuCtxGetCurrent(void** context) { *context = kContext; return 0; }
int cuCtxGetDevice(int* device) { *device = 0; return 0; }
int cuDriverGetVersion(int* version) { *version = 13020; return 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) { return cudaDeviceGetAttribute(value, attribute, device); }
int cuDeviceComputeCapability(int* major, int* minor, int) { *major = 9; *minor = 0; return 0; }
int cuGetErrorString(int, const char** text) { *text = "an error of the pretended driver"; return 0; }

int cuModuleLoadData(void** module, const void*) { *module = malloc(8); return 0; }
int cuModuleLoadDataEx(void** module, const void*, unsigned, void*, void*) { *module = malloc(8); return 0; }
int cuModuleGetFunction(void** function, void*, const char* name) { *function = strdup(name); return 0; }
int cuFuncGetAttribute(int* value, int attribute, void*) { *value = attribute == 4 ? 32 : attribute == 0 ? 1024 : 0; return 0; }
int cuOccupancyMaxActiveClusters(int* count, void*, const void*) { *count = 8; return 0; }
int cuPointerGetAttribute(void* data, int, unsigned long long pointer) { *(unsigned long long*)data = pointer; return 0; }

// CUlaunchConfig: seven unsigned numbers (grid, block, shared memory), then the stream.
int cuLaunchKernelEx(const void* config, void* function, void**, void**) {
  return pretend_launch((const char*)function, *(void**)((const char*)config + 32));
}
int cuLaunchKernel(void* function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void* stream, void**, void**) {
  return pretend_launch((const char*)function, stream);
}

// clang-format off
#define SUCCEED(NAME) int NAME() { return 0; }
SUCCEED(cuArray3DCreate) SUCCEED(cuArray3DGetDescriptor) SUCCEED(cuArrayCreate) SUCCEED(cuArrayDestroy) SUCCEED(cuArrayGetDescriptor)
SUCCEED(cuArrayGetMemoryRequirements) SUCCEED(cuArrayGetPlane) SUCCEED(cuArrayGetSparseProperties) SUCCEED(cuCheckpointProcessCheckpoint)
SUCCEED(cuCheckpointProcessGetRestoreThreadId) SUCCEED(cuCheckpointProcessGetState) SUCCEED(cuCheckpointProcessLock)
SUCCEED(cuCheckpointProcessRestore) SUCCEED(cuCheckpointProcessUnlock) SUCCEED(cuCoredumpGetAttribute)
SUCCEED(cuCoredumpGetAttributeGlobal) SUCCEED(cuCoredumpSetAttribute) SUCCEED(cuCoredumpSetAttributeGlobal) SUCCEED(cuCtxAttach)
SUCCEED(cuCtxCreate) SUCCEED(cuCtxCreate_v2) SUCCEED(cuCtxCreate_v3) SUCCEED(cuCtxDestroy) SUCCEED(cuCtxDetach)
SUCCEED(cuCtxDisablePeerAccess) SUCCEED(cuCtxEnablePeerAccess) SUCCEED(cuCtxFromGreenCtx) SUCCEED(cuCtxGetApiVersion)
SUCCEED(cuCtxGetCacheConfig) SUCCEED(cuCtxGetDevResource) SUCCEED(cuCtxGetDevice_v2) SUCCEED(cuCtxGetExecAffinity) SUCCEED(cuCtxGetFlags)
SUCCEED(cuCtxGetId) SUCCEED(cuCtxGetLimit) SUCCEED(cuCtxGetSharedMemConfig) SUCCEED(cuCtxGetStreamPriorityRange) SUCCEED(cuCtxPopCurrent)
SUCCEED(cuCtxPushCurrent) SUCCEED(cuCtxRecordEvent) SUCCEED(cuCtxResetPersistingL2Cache) SUCCEED(cuCtxSetCacheConfig)
SUCCEED(cuCtxSetCurrent) SUCCEED(cuCtxSetFlags) SUCCEED(cuCtxSetLimit) SUCCEED(cuCtxSetSharedMemConfig) SUCCEED(cuCtxSynchronize)
SUCCEED(cuCtxSynchronize_v2) SUCCEED(cuCtxWaitEvent) SUCCEED(cuDestroyExternalMemory) SUCCEED(cuDestroyExternalSemaphore)
SUCCEED(cuDevResourceGenerateDesc) SUCCEED(cuDevSmResourceSplitByCount) SUCCEED(cuDeviceCanAccessPeer) SUCCEED(cuDeviceGetByPCIBusId)
SUCCEED(cuDeviceGetDefaultMemPool) SUCCEED(cuDeviceGetDevResource) SUCCEED(cuDeviceGetExecAffinitySupport)
SUCCEED(cuDeviceGetGraphMemAttribute) SUCCEED(cuDeviceGetHostAtomicCapabilities) SUCCEED(cuDeviceGetLuid) SUCCEED(cuDeviceGetMemPool)
SUCCEED(cuDeviceGetName) SUCCEED(cuDeviceGetNvSciSyncAttributes) SUCCEED(cuDeviceGetP2PAtomicCapabilities)
SUCCEED(cuDeviceGetP2PAttribute) SUCCEED(cuDeviceGetPCIBusId) SUCCEED(cuDeviceGetProperties) SUCCEED(cuDeviceGetTexture1DLinearMaxWidth)
SUCCEED(cuDeviceGetUuid) SUCCEED(cuDeviceGraphMemTrim) SUCCEED(cuDevicePrimaryCtxRelease) SUCCEED(cuDevicePrimaryCtxReset)
SUCCEED(cuDevicePrimaryCtxSetFlags) SUCCEED(cuDeviceRegisterAsyncNotification) SUCCEED(cuDeviceSetGraphMemAttribute)
SUCCEED(cuDeviceSetMemPool) SUCCEED(cuDeviceTotalMem) SUCCEED(cuDeviceUnregisterAsyncNotification) SUCCEED(cuEventCreate)
SUCCEED(cuEventDestroy) SUCCEED(cuEventElapsedTime) SUCCEED(cuEventQuery) SUCCEED(cuEventRecord) SUCCEED(cuEventRecordWithFlags)
SUCCEED(cuEventSynchronize) SUCCEED(cuExternalMemoryGetMappedBuffer) SUCCEED(cuExternalMemoryGetMappedMipmappedArray)
SUCCEED(cuFlushGPUDirectRDMAWrites) SUCCEED(cuFuncGetModule) SUCCEED(cuFuncGetName) SUCCEED(cuFuncGetParamInfo) SUCCEED(cuFuncIsLoaded)
SUCCEED(cuFuncLoad) SUCCEED(cuFuncSetAttribute) SUCCEED(cuFuncSetBlockShape) SUCCEED(cuFuncSetCacheConfig)
SUCCEED(cuFuncSetSharedMemConfig) SUCCEED(cuFuncSetSharedSize) SUCCEED(cuGetErrorName) SUCCEED(cuGetExportTable) SUCCEED(cuGetProcAddress)
SUCCEED(cuGetProcAddress_v2) SUCCEED(cuGetProcAddress_v2_ptsz) SUCCEED(cuGraphAddBatchMemOpNode) SUCCEED(cuGraphAddChildGraphNode)
SUCCEED(cuGraphAddDependencies) SUCCEED(cuGraphAddEmptyNode) SUCCEED(cuGraphAddEventRecordNode) SUCCEED(cuGraphAddEventWaitNode)
SUCCEED(cuGraphAddExternalSemaphoresSignalNode) SUCCEED(cuGraphAddExternalSemaphoresWaitNode) SUCCEED(cuGraphAddHostNode)
SUCCEED(cuGraphAddKernelNode) SUCCEED(cuGraphAddMemAllocNode) SUCCEED(cuGraphAddMemFreeNode) SUCCEED(cuGraphAddMemcpyNode)
SUCCEED(cuGraphAddMemsetNode) SUCCEED(cuGraphAddNode) SUCCEED(cuGraphBatchMemOpNodeGetParams) SUCCEED(cuGraphBatchMemOpNodeSetParams)
SUCCEED(cuGraphChildGraphNodeGetGraph) SUCCEED(cuGraphClone) SUCCEED(cuGraphConditionalHandleCreate) SUCCEED(cuGraphCreate)
SUCCEED(cuGraphDebugDotPrint) SUCCEED(cuGraphDestroy) SUCCEED(cuGraphDestroyNode) SUCCEED(cuGraphEventRecordNodeGetEvent)
SUCCEED(cuGraphEventRecordNodeSetEvent) SUCCEED(cuGraphEventWaitNodeGetEvent) SUCCEED(cuGraphEventWaitNodeSetEvent)
SUCCEED(cuGraphExecBatchMemOpNodeSetParams) SUCCEED(cuGraphExecChildGraphNodeSetParams) SUCCEED(cuGraphExecDestroy)
SUCCEED(cuGraphExecEventRecordNodeSetEvent) SUCCEED(cuGraphExecEventWaitNodeSetEvent)
SUCCEED(cuGraphExecExternalSemaphoresSignalNodeSetParams) SUCCEED(cuGraphExecExternalSemaphoresWaitNodeSetParams)
SUCCEED(cuGraphExecGetFlags) SUCCEED(cuGraphExecHostNodeSetParams) SUCCEED(cuGraphExecKernelNodeSetParams)
SUCCEED(cuGraphExecMemcpyNodeSetParams) SUCCEED(cuGraphExecMemsetNodeSetParams) SUCCEED(cuGraphExecNodeSetParams)
SUCCEED(cuGraphExecUpdate) SUCCEED(cuGraphExternalSemaphoresSignalNodeGetParams) SUCCEED(cuGraphExternalSemaphoresSignalNodeSetParams)
SUCCEED(cuGraphExternalSemaphoresWaitNodeGetParams) SUCCEED(cuGraphExternalSemaphoresWaitNodeSetParams) SUCCEED(cuGraphGetEdges)
SUCCEED(cuGraphGetNodes) SUCCEED(cuGraphGetRootNodes) SUCCEED(cuGraphHostNodeGetParams) SUCCEED(cuGraphHostNodeSetParams)
SUCCEED(cuGraphInstantiate) SUCCEED(cuGraphInstantiateWithParams) SUCCEED(cuGraphInstantiate_v2) SUCCEED(cuGraphKernelNodeCopyAttributes)
SUCCEED(cuGraphKernelNodeGetAttribute) SUCCEED(cuGraphKernelNodeGetParams) SUCCEED(cuGraphKernelNodeSetAttribute)
SUCCEED(cuGraphKernelNodeSetParams) SUCCEED(cuGraphLaunch) SUCCEED(cuGraphMemAllocNodeGetParams) SUCCEED(cuGraphMemFreeNodeGetParams)
SUCCEED(cuGraphMemcpyNodeGetParams) SUCCEED(cuGraphMemcpyNodeSetParams) SUCCEED(cuGraphMemsetNodeGetParams)
SUCCEED(cuGraphMemsetNodeSetParams) SUCCEED(cuGraphNodeFindInClone) SUCCEED(cuGraphNodeGetDependencies)
SUCCEED(cuGraphNodeGetDependentNodes) SUCCEED(cuGraphNodeGetEnabled) SUCCEED(cuGraphNodeGetType) SUCCEED(cuGraphNodeSetEnabled)
SUCCEED(cuGraphNodeSetParams) SUCCEED(cuGraphReleaseUserObject) SUCCEED(cuGraphRemoveDependencies) SUCCEED(cuGraphRetainUserObject)
SUCCEED(cuGraphUpload) SUCCEED(cuGraphicsMapResources) SUCCEED(cuGraphicsResourceGetMappedMipmappedArray)
SUCCEED(cuGraphicsResourceGetMappedPointer) SUCCEED(cuGraphicsResourceSetMapFlags) SUCCEED(cuGraphicsSubResourceGetMappedArray)
SUCCEED(cuGraphicsUnmapResources) SUCCEED(cuGraphicsUnregisterResource) SUCCEED(cuGreenCtxCreate) SUCCEED(cuGreenCtxDestroy)
SUCCEED(cuGreenCtxGetDevResource) SUCCEED(cuGreenCtxGetId) SUCCEED(cuGreenCtxRecordEvent) SUCCEED(cuGreenCtxStreamCreate)
SUCCEED(cuGreenCtxWaitEvent) SUCCEED(cuImportExternalMemory) SUCCEED(cuImportExternalSemaphore) SUCCEED(cuInit)
SUCCEED(cuIpcCloseMemHandle) SUCCEED(cuIpcGetEventHandle) SUCCEED(cuIpcGetMemHandle) SUCCEED(cuIpcOpenEventHandle)
SUCCEED(cuIpcOpenMemHandle) SUCCEED(cuKernelGetAttribute) SUCCEED(cuKernelGetFunction) SUCCEED(cuKernelGetLibrary)
SUCCEED(cuKernelGetName) SUCCEED(cuKernelGetParamInfo) SUCCEED(cuKernelSetAttribute) SUCCEED(cuKernelSetCacheConfig) SUCCEED(cuLaunch)
SUCCEED(cuLaunchCooperativeKernel) SUCCEED(cuLaunchCooperativeKernelMultiDevice) SUCCEED(cuLaunchGrid) SUCCEED(cuLaunchGridAsync)
SUCCEED(cuLaunchHostFunc) SUCCEED(cuLibraryEnumerateKernels) SUCCEED(cuLibraryGetGlobal) SUCCEED(cuLibraryGetKernel)
SUCCEED(cuLibraryGetKernelCount) SUCCEED(cuLibraryGetManaged) SUCCEED(cuLibraryGetModule) SUCCEED(cuLibraryGetUnifiedFunction)
SUCCEED(cuLibraryLoadData) SUCCEED(cuLibraryLoadFromFile) SUCCEED(cuLibraryUnload) SUCCEED(cuLinkAddData) SUCCEED(cuLinkAddFile)
SUCCEED(cuLinkComplete) SUCCEED(cuLinkCreate) SUCCEED(cuLinkDestroy) SUCCEED(cuLogsCurrent) SUCCEED(cuLogsDumpToFile)
SUCCEED(cuLogsDumpToMemory) SUCCEED(cuLogsRegisterCallback) SUCCEED(cuLogsUnregisterCallback) SUCCEED(cuMemAddressFree)
SUCCEED(cuMemAddressReserve) SUCCEED(cuMemAdvise) SUCCEED(cuMemAlloc) SUCCEED(cuMemAllocAsync) SUCCEED(cuMemAllocFromPoolAsync)
SUCCEED(cuMemAllocHost) SUCCEED(cuMemAllocManaged) SUCCEED(cuMemAllocPitch) SUCCEED(cuMemBatchDecompressAsync) SUCCEED(cuMemCreate)
SUCCEED(cuMemDiscardAndPrefetchBatchAsync) SUCCEED(cuMemDiscardBatchAsync) SUCCEED(cuMemExportToShareableHandle) SUCCEED(cuMemFree)
SUCCEED(cuMemFreeAsync) SUCCEED(cuMemFreeHost) SUCCEED(cuMemGetAccess) SUCCEED(cuMemGetAddressRange)
SUCCEED(cuMemGetAllocationGranularity) SUCCEED(cuMemGetAllocationPropertiesFromHandle) SUCCEED(cuMemGetDefaultMemPool)
SUCCEED(cuMemGetHandleForAddressRange) SUCCEED(cuMemGetInfo) SUCCEED(cuMemGetMemPool) SUCCEED(cuMemHostAlloc)
SUCCEED(cuMemHostGetDevicePointer) SUCCEED(cuMemHostGetFlags) SUCCEED(cuMemHostRegister) SUCCEED(cuMemHostUnregister)
SUCCEED(cuMemImportFromShareableHandle) SUCCEED(cuMemMap) SUCCEED(cuMemMapArrayAsync) SUCCEED(cuMemPoolCreate) SUCCEED(cuMemPoolDestroy)
SUCCEED(cuMemPoolExportPointer) SUCCEED(cuMemPoolExportToShareableHandle) SUCCEED(cuMemPoolGetAccess) SUCCEED(cuMemPoolGetAttribute)
SUCCEED(cuMemPoolImportFromShareableHandle) SUCCEED(cuMemPoolImportPointer) SUCCEED(cuMemPoolSetAccess) SUCCEED(cuMemPoolSetAttribute)
SUCCEED(cuMemPoolTrimTo) SUCCEED(cuMemPrefetchAsync) SUCCEED(cuMemPrefetchAsync_ptsz) SUCCEED(cuMemPrefetchAsync_v2)
SUCCEED(cuMemPrefetchBatchAsync) SUCCEED(cuMemRangeGetAttribute) SUCCEED(cuMemRangeGetAttributes) SUCCEED(cuMemRelease)
SUCCEED(cuMemRetainAllocationHandle) SUCCEED(cuMemSetAccess) SUCCEED(cuMemSetMemPool) SUCCEED(cuMemUnmap) SUCCEED(cuMemcpy)
SUCCEED(cuMemcpy2D) SUCCEED(cuMemcpy2DAsync) SUCCEED(cuMemcpy2DAsync_v2) SUCCEED(cuMemcpy2DUnaligned) SUCCEED(cuMemcpy2DUnaligned_v2)
SUCCEED(cuMemcpy2D_v2) SUCCEED(cuMemcpy3D) SUCCEED(cuMemcpy3DAsync) SUCCEED(cuMemcpy3DAsync_v2) SUCCEED(cuMemcpy3DBatchAsync)
SUCCEED(cuMemcpy3DBatchAsync_ptsz) SUCCEED(cuMemcpy3DBatchAsync_v2) SUCCEED(cuMemcpy3DPeer) SUCCEED(cuMemcpy3DPeerAsync)
SUCCEED(cuMemcpy3D_v2) SUCCEED(cuMemcpyAsync) SUCCEED(cuMemcpyAtoA) SUCCEED(cuMemcpyAtoA_v2) SUCCEED(cuMemcpyAtoD)
SUCCEED(cuMemcpyAtoD_v2) SUCCEED(cuMemcpyAtoH) SUCCEED(cuMemcpyAtoHAsync) SUCCEED(cuMemcpyAtoHAsync_v2) SUCCEED(cuMemcpyAtoH_v2)
SUCCEED(cuMemcpyBatchAsync) SUCCEED(cuMemcpyBatchAsync_ptsz) SUCCEED(cuMemcpyBatchAsync_v2) SUCCEED(cuMemcpyDtoA) SUCCEED(cuMemcpyDtoA_v2)
SUCCEED(cuMemcpyDtoD) SUCCEED(cuMemcpyDtoDAsync) SUCCEED(cuMemcpyDtoDAsync_v2) SUCCEED(cuMemcpyDtoD_v2) SUCCEED(cuMemcpyDtoH)
SUCCEED(cuMemcpyDtoHAsync) SUCCEED(cuMemcpyDtoHAsync_v2) SUCCEED(cuMemcpyDtoH_v2) SUCCEED(cuMemcpyHtoA) SUCCEED(cuMemcpyHtoAAsync)
SUCCEED(cuMemcpyHtoAAsync_v2) SUCCEED(cuMemcpyHtoA_v2) SUCCEED(cuMemcpyHtoD) SUCCEED(cuMemcpyHtoDAsync) SUCCEED(cuMemcpyHtoDAsync_v2)
SUCCEED(cuMemcpyHtoD_v2) SUCCEED(cuMemcpyPeer) SUCCEED(cuMemcpyPeerAsync) SUCCEED(cuMemsetD16) SUCCEED(cuMemsetD16Async)
SUCCEED(cuMemsetD16_v2) SUCCEED(cuMemsetD2D16) SUCCEED(cuMemsetD2D16Async) SUCCEED(cuMemsetD2D16_v2) SUCCEED(cuMemsetD2D32)
SUCCEED(cuMemsetD2D32Async) SUCCEED(cuMemsetD2D32_v2) SUCCEED(cuMemsetD2D8) SUCCEED(cuMemsetD2D8Async) SUCCEED(cuMemsetD2D8_v2)
SUCCEED(cuMemsetD32) SUCCEED(cuMemsetD32Async) SUCCEED(cuMemsetD32_v2) SUCCEED(cuMemsetD8) SUCCEED(cuMemsetD8Async) SUCCEED(cuMemsetD8_v2)
SUCCEED(cuMipmappedArrayCreate) SUCCEED(cuMipmappedArrayDestroy) SUCCEED(cuMipmappedArrayGetLevel)
SUCCEED(cuMipmappedArrayGetMemoryRequirements) SUCCEED(cuMipmappedArrayGetSparseProperties) SUCCEED(cuModuleEnumerateFunctions)
SUCCEED(cuModuleGetFunctionCount) SUCCEED(cuModuleGetGlobal) SUCCEED(cuModuleGetLoadingMode) SUCCEED(cuModuleGetSurfRef)
SUCCEED(cuModuleGetTexRef) SUCCEED(cuModuleLoad) SUCCEED(cuModuleLoadFatBinary) SUCCEED(cuModuleUnload) SUCCEED(cuMulticastAddDevice)
SUCCEED(cuMulticastBindAddr) SUCCEED(cuMulticastBindMem) SUCCEED(cuMulticastCreate) SUCCEED(cuMulticastGetGranularity)
SUCCEED(cuMulticastUnbind) SUCCEED(cuOccupancyAvailableDynamicSMemPerBlock) SUCCEED(cuOccupancyMaxActiveBlocksPerMultiprocessor)
SUCCEED(cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags) SUCCEED(cuOccupancyMaxPotentialBlockSize)
SUCCEED(cuOccupancyMaxPotentialBlockSizeWithFlags) SUCCEED(cuOccupancyMaxPotentialClusterSize) SUCCEED(cuParamSetSize)
SUCCEED(cuParamSetTexRef) SUCCEED(cuParamSetf) SUCCEED(cuParamSeti) SUCCEED(cuParamSetv) SUCCEED(cuPointerGetAttributes)
SUCCEED(cuPointerSetAttribute) SUCCEED(cuProfilerStart) SUCCEED(cuProfilerStop) SUCCEED(cuSignalExternalSemaphoresAsync)
SUCCEED(cuStreamAddCallback) SUCCEED(cuStreamAttachMemAsync) SUCCEED(cuStreamBatchMemOp) SUCCEED(cuStreamBatchMemOp_ptsz)
SUCCEED(cuStreamBatchMemOp_v2) SUCCEED(cuStreamBeginCapture) SUCCEED(cuStreamBeginCaptureToGraph) SUCCEED(cuStreamBeginCapture_ptsz)
SUCCEED(cuStreamBeginCapture_v2) SUCCEED(cuStreamCopyAttributes) SUCCEED(cuStreamCreate) SUCCEED(cuStreamCreateWithPriority)
SUCCEED(cuStreamDestroy) SUCCEED(cuStreamEndCapture) SUCCEED(cuStreamGetAttribute) SUCCEED(cuStreamGetCaptureInfo)
SUCCEED(cuStreamGetCaptureInfo_ptsz) SUCCEED(cuStreamGetCaptureInfo_v2) SUCCEED(cuStreamGetCaptureInfo_v2_ptsz)
SUCCEED(cuStreamGetCaptureInfo_v3) SUCCEED(cuStreamGetCtx) SUCCEED(cuStreamGetCtx_v2) SUCCEED(cuStreamGetDevice) SUCCEED(cuStreamGetFlags)
SUCCEED(cuStreamGetGreenCtx) SUCCEED(cuStreamGetId) SUCCEED(cuStreamGetPriority) SUCCEED(cuStreamIsCapturing) SUCCEED(cuStreamQuery)
SUCCEED(cuStreamSetAttribute) SUCCEED(cuStreamSynchronize) SUCCEED(cuStreamUpdateCaptureDependencies)
SUCCEED(cuStreamUpdateCaptureDependencies_ptsz) SUCCEED(cuStreamUpdateCaptureDependencies_v2) SUCCEED(cuStreamWaitEvent)
SUCCEED(cuStreamWaitValue32) SUCCEED(cuStreamWaitValue32_ptsz) SUCCEED(cuStreamWaitValue32_v2) SUCCEED(cuStreamWaitValue64)
SUCCEED(cuStreamWaitValue64_ptsz) SUCCEED(cuStreamWaitValue64_v2) SUCCEED(cuStreamWriteValue32) SUCCEED(cuStreamWriteValue32_ptsz)
SUCCEED(cuStreamWriteValue32_v2) SUCCEED(cuStreamWriteValue64) SUCCEED(cuStreamWriteValue64_ptsz) SUCCEED(cuStreamWriteValue64_v2)
SUCCEED(cuSurfObjectCreate) SUCCEED(cuSurfObjectDestroy) SUCCEED(cuSurfObjectGetResourceDesc) SUCCEED(cuSurfRefGetArray)
SUCCEED(cuSurfRefSetArray) SUCCEED(cuTensorMapEncodeIm2col) SUCCEED(cuTensorMapEncodeIm2colWide) SUCCEED(cuTensorMapEncodeTiled)
SUCCEED(cuTensorMapReplaceAddress) SUCCEED(cuTexObjectCreate) SUCCEED(cuTexObjectDestroy) SUCCEED(cuTexObjectGetResourceDesc)
SUCCEED(cuTexObjectGetResourceViewDesc) SUCCEED(cuTexObjectGetTextureDesc) SUCCEED(cuTexRefCreate) SUCCEED(cuTexRefDestroy)
SUCCEED(cuTexRefGetAddress) SUCCEED(cuTexRefGetAddressMode) SUCCEED(cuTexRefGetArray) SUCCEED(cuTexRefGetBorderColor)
SUCCEED(cuTexRefGetFilterMode) SUCCEED(cuTexRefGetFlags) SUCCEED(cuTexRefGetFormat) SUCCEED(cuTexRefGetMaxAnisotropy)
SUCCEED(cuTexRefGetMipmapFilterMode) SUCCEED(cuTexRefGetMipmapLevelBias) SUCCEED(cuTexRefGetMipmapLevelClamp)
SUCCEED(cuTexRefGetMipmappedArray) SUCCEED(cuTexRefSetAddress) SUCCEED(cuTexRefSetAddress2D) SUCCEED(cuTexRefSetAddress2D_v2)
SUCCEED(cuTexRefSetAddressMode) SUCCEED(cuTexRefSetArray) SUCCEED(cuTexRefSetBorderColor) SUCCEED(cuTexRefSetFilterMode)
SUCCEED(cuTexRefSetFlags) SUCCEED(cuTexRefSetFormat) SUCCEED(cuTexRefSetMaxAnisotropy) SUCCEED(cuTexRefSetMipmapFilterMode)
SUCCEED(cuTexRefSetMipmapLevelBias) SUCCEED(cuTexRefSetMipmapLevelClamp) SUCCEED(cuTexRefSetMipmappedArray)
SUCCEED(cuThreadExchangeStreamCaptureMode) SUCCEED(cuUserObjectCreate) SUCCEED(cuUserObjectRelease) SUCCEED(cuUserObjectRetain)
SUCCEED(cuWaitExternalSemaphoresAsync)

}  // extern "C"
