// Second moments of grouped rows: for each group, the sum of w (x - o)(x - o)^T.
//
// Every slot of rows (slots.cuh) gives partial sums, which are then added in the order of the slots in float64: the
// same rows give the same bits, whichever block runs first.
//
// Compiled for  REAL: float or double, the type of X;  TILE: rows and columns of S that a block computes;
//               PIECE: numbers copied at a time, for which rows must be aligned;  CHUNK: rows of a slot;
//               DEPTH: rows of a stage of the pipeline;  STAGES: of which so many are under way.
#include "slots.cuh"
#include "tile.cuh"

using Real = REAL;

// Row and column of element i of a lower triangle, row after row.
__device__ __forceinline__ void triangle(int i, int& row, int& column) {
  for (row = 0; i > row; row++) i -= row + 1;
  column = i;
}

template <class T, int SIZE> struct Square;
template <> struct Square<float, 128> { using Tile = TensorTile<2, 4, 4, 4, 3>; };
template <> struct Square<float, 64> { using Tile = TensorTile<2, 2, 2, 4, 3>; };
template <> struct Square<double, 64> { using Tile = DoubleTile<8, 8, 4>; };
using Tile = Square<Real, TILE>::Tile;

constexpr int THREADS = Tile::THREADS, BLOCKS = sizeof(Real) == 8 ? 3 : 512 / THREADS;  // of a multiprocessor
// Rows of LD numbers: fragments read 4 rows x 8 columns at a time, from 32 different banks.
constexpr int LD = TILE + (sizeof(Real) == 4 ? 8 : 0);
constexpr int STAGE = DEPTH * LD;

// y = scale (x - shift), in place.
__device__ __forceinline__ void transform(Real* x, Real scale, const Real* shift) {
  using Numbers = Piece<Real, PIECE>;
  Numbers y = *(Numbers*)x;
  const Numbers o = *(const Numbers*)shift;
#pragma unroll
  for (int i = 0; i < PIECE; i++) y.at[i] = (y.at[i] - o.at[i]) * scale;
  *(Numbers*)x = y;
}

// partial (slots, tiles, TILE, TILE) = sum of y y^T over the rows of each slot, for the tiles of the lower triangle.
// Above the diagonal of a tile on the diagonal, it is not computed everywhere.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
products(const Real* X, const double* weights, const Real* origins, const long long* order, const long long* starts,
         const long long* slots, const int* owners, int groups, int k, int d, long long first_slot, Real* partial) {
  extern __shared__ __align__(128) unsigned char dyn_smem[];
  const Real** rows = (const Real**)dyn_smem;  // [CHUNK]: null past the end of the slot
  Real* left = (Real*)(rows + CHUNK);       // [STAGES][DEPTH][LD]: columns of X that become rows of S ...
  Real* right = left + STAGES * STAGE;      // [STAGES][DEPTH][LD]: ... and those that become its columns
  Real* scale = right + STAGES * STAGE;     // [CHUNK]
  Real* shift = scale + CHUNK;              // [2][TILE]

  const int side = (d + TILE - 1) / TILE, tiles = side * (side + 1) / 2;
  const Slot slot({starts, slots, owners, groups}, first_slot + blockIdx.x / tiles, CHUNK);
  if (slot.size == 0) return;
  int row, column;
  triangle(blockIdx.x % tiles, row, column);
  const bool diagonal = row == column, moved = weights || origins;
  row *= TILE;
  column *= TILE;

  for (int r = threadIdx.x; r < CHUNK; r += THREADS) {
    const long long i = r < slot.size ? order[slot.begin + r] : -1;
    rows[r] = i < 0 ? nullptr : X + i * d;
    scale[r] = i < 0 ? 0 : weights ? (Real)sqrt(weights[i]) : 1;
  }
  for (int i = threadIdx.x; i < 2 * TILE; i += THREADS) {
    const int c = i < TILE ? row + i : column + i - TILE;
    shift[i] = origins && c < d ? origins[(long long)(slot.group % k) * d + c] : (Real)0;
  }
  __syncthreads();

  // Pieces are copied, and later transformed, by the same thread: column c of the tiles, in some of a stage's rows.
  const int steps = (slot.size + DEPTH - 1) / DEPTH;
  auto begin = [&](int step, int stage) {
    own_pieces<DEPTH, TILE, PIECE, THREADS>([&](int r, int c) {
      const Real* x = rows[step * DEPTH + r];
      const int at = stage * STAGE + r * LD + c;
      copy_async<PIECE>(left + at, x + row + c, x && row + c < d);
      if (!diagonal) copy_async<PIECE>(right + at, x + column + c, x);
    });
  };
  auto own = [&](int step, int stage) {
    if (!moved) return;
    own_pieces<DEPTH, TILE, PIECE, THREADS>([&](int r, int c) {
      const Real root = scale[step * DEPTH + r];
      const int at = stage * STAGE + r * LD + c;
      transform(left + at, root, shift + c);
      if (!diagonal) transform(right + at, root, shift + TILE + c);
    });
  };
  Tile tile;
  auto add = [&](int stage) {
    const Real *a = left + stage * STAGE, *b = diagonal ? a : right + stage * STAGE;
    if (!(diagonal && tile.above_diagonal())) tile.template add<DEPTH, 1, LD, LD>(a, b, d - row);
  };
  pipeline<STAGES>(steps, begin, own, add);
  if (diagonal && tile.above_diagonal()) return;
  partial += (long long)blockIdx.x * TILE * TILE;
  tile.each([&](int m, int n, Real value) { partial[m * TILE + n] = value; });
}

constexpr int PATCH = 32;

// S_c += partial sums of the slots of group `groups - k + c`, one after another, less those of group c if there are 2 k
// groups: the rows that come, and those that go. Slots [first_slot, last_slot) are at hand. What S is before does not
// count if `fresh`. A block of PATCH x 8 threads works on a patch of the lower triangle and its mirror image.
extern "C" __global__ void __launch_bounds__(256)
fold_products(const Real* partial, const long long* slots, int groups, int k, int d, long long first_slot,
              long long last_slot, int fresh, double* S) {
  __shared__ double found[PATCH][PATCH + 1];
  constexpr int EACH = PATCH / 8;
  const int side = (d + PATCH - 1) / PATCH, patches = side * (side + 1) / 2;
  const int c = blockIdx.x / patches, come = groups - k + c;
  auto first = [&](int group) { return max(slots[group], first_slot); };
  auto last = [&](int group) { return min(slots[group + 1], last_slot); };
  const bool some_go = groups > k && first(c) < last(c);
  if (!fresh && first(come) >= last(come) && !some_go) return;

  int row, column;
  triangle(blockIdx.x % patches, row, column);
  row *= PATCH;
  column *= PATCH;
  S += (long long)c * d * d;
  auto inside = [&](int m, int n) { return row + m < d && column + n <= row + m; };
  double total[EACH] = {};
  for (int i = 0; i < EACH; i++) {
    const int m = threadIdx.y + 8 * i, n = threadIdx.x;
    if (!fresh && inside(m, n)) total[i] = S[(long long)(row + m) * d + column + n];
  }

  const int tile_row = row / TILE, tile = tile_row * (tile_row + 1) / 2 + column / TILE, tiles = (d + TILE - 1) / TILE;
  const long long size = (long long)tiles * (tiles + 1) / 2 * TILE * TILE;
  partial += (long long)tile * TILE * TILE + (row % TILE + threadIdx.y) * TILE + column % TILE + threadIdx.x;
  auto fold = [&](int group, double sign) {
#pragma unroll 4
    for (long long s = first(group); s < last(group); s++)
#pragma unroll
      for (int i = 0; i < EACH; i++) total[i] += sign * partial[(s - first_slot) * size + i * 8 * TILE];
  };
  fold(come, 1);
  if (some_go) fold(c, -1);

  for (int i = 0; i < EACH; i++) {
    const int m = threadIdx.y + 8 * i, n = threadIdx.x;
    found[m][n] = total[i];
    if (inside(m, n)) S[(long long)(row + m) * d + column + n] = total[i];
  }
  __syncthreads();
  for (int i = 0; i < EACH; i++) {
    const int m = threadIdx.x, n = threadIdx.y + 8 * i;
    if (inside(m, n)) S[(long long)(column + n) * d + row + m] = found[m][n];
  }
}
