// What the host waits for once a step: a few small arrays as one.

template <class T>
__device__ __forceinline__ double at(const void* numbers, int i) { return (double)((const T*)numbers)[i]; }

// Numbers of up to four arrays in float64, one array after another. kind: place of the dtype among KINDS of status.py.
extern "C" __global__ void __launch_bounds__(256)
join(const void* a, int size_a, int kind_a, const void* b, int size_b, int kind_b, const void* c, int size_c, int kind_c,
     const void* d, int size_d, int kind_d, double* out) {
  const void* const arrays[4] = {a, b, c, d};
  const int sizes[4] = {size_a, size_b, size_c, size_d}, kinds[4] = {kind_a, kind_b, kind_c, kind_d};
  const int place = blockIdx.x * blockDim.x + threadIdx.x;
  int i = place;
#pragma unroll
  for (int array = 0; array < 4; array++) {
    if (0 <= i && i < sizes[array]) {
      const void* const numbers = arrays[array];
      const int kind = kinds[array];
      out[place] = kind == 0   ? at<bool>(numbers, i)
                   : kind == 1 ? at<int>(numbers, i)
                   : kind == 2 ? at<long long>(numbers, i)
                   : kind == 3 ? at<float>(numbers, i)
                               : at<double>(numbers, i);
    }
    i -= sizes[array];
  }
}
