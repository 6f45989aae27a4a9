"""Faults to plant in the CUDA kernels. Each must be caught, or the tests that should catch it are worth little.

A mutant names a file of ``kernels/cuda``, a text that stands in it exactly once, and what takes its place. What is to
catch it is a function of ``exercises.py``, which runs the kernels on small problems and raises.
"""

from typing import NamedTuple


class Mutant(NamedTuple):
    """``old`` in ``file`` becomes ``new``."""

    what: str
    file: str
    old: str
    new: str


# Exercise -> its mutants.
MUTANTS: dict[str, list[Mutant]] = {
    "exercise_assign": [
        Mutant("nobody waits for the others' copies", "assign.cu", "__syncthreads();", ""),
        Mutant(
            "the newest copies are not waited for",
            "assign.cu",
            "cp_async_wait<STAGES - 2>",
            "cp_async_wait<STAGES - 1>",
        ),
        Mutant("copies overtake by a stage", "assign.cu", "fetch(position + STAGES - 1)", "fetch(position + STAGES)"),
        Mutant("resident rows are used before they land", "assign.cu", "cp_async_wait<0>();", ""),
        Mutant(
            "groups of copies are never closed", "assign.cu", "    cp_async_commit();\n    next_step", "    next_step"
        ),
        Mutant("streamed rows lag behind", "assign.cu", "next_step + 1 == steps ? 0", "next_step == steps ? 0"),
        Mutant(
            "the last chunk of a row is dropped", "assign.cu", "&& column < source.d)", "&& column + WIDTH < source.d)"
        ),
        Mutant(
            "the last column of a row is dropped",
            "assign.cu",
            "cp_async4(slots[32 * i].x + j, from, there && column + j < source.d)",
            "cp_async4(slots[32 * i].x + j, from, there && column + j + 1 < source.d)",
        ),
        Mutant(
            "a row past the end is written",
            "assign.cu",
            "distances || decided() >= rows_there",
            "distances || decided() > rows_there",
        ),
        Mutant("the centre stays", "assign.cu", "if (centre) subtract", "if (false) subtract"),
        Mutant(
            "operands of rows change places",
            "products.cuh",
            "rows.high[j / 2][i / 2][i % 2 + j % 2 * 2], rows",
            "rows.high[j / 2][i / 2][i % 2 * 2 + j % 2], rows",
        ),
        Mutant(
            "operands of probes change places",
            "products.cuh",
            "probes.high[j / 2][j % 2], probes.low",
            "probes.high[j % 2][j / 2], probes.low",
        ),
        Mutant(
            "TF32: a correction is missing",
            "products.cuh",
            "mma_m16n8k8_tf32(fresh + i % 2 * 4, rows.high[i / 2][i % 2], probes.low[i / 2]);",
            ";",
        ),
        Mutant(
            "TF32: the other correction is missing",
            "products.cuh",
            "mma_m16n8k8_tf32(fresh + i % 2 * 4, rows.low[i / 2][i % 2], probes.high[i / 2]);",
            ";",
        ),
        Mutant("float64: half of a chunk is forgotten", "products.cuh", "chunks[i % 4].x[i / 4]", "chunks[i % 4].x[0]"),
        Mutant(
            "a lane reads the wrong probe", "assign.cu", "(8 * f + g) * CHUNKS + t]", "(8 * f + t) * CHUNKS + g % 4]"
        ),
        Mutant(
            "a flat that ends with a fragment goes on",
            "assign.cu",
            "ends_here = flat.end <= column + 8",
            "ends_here = flat.end < column + 8",
        ),
        Mutant(
            "the next flat's first columns count too", "assign.cu", "own_column < flat.end", "own_column <= flat.end"
        ),
        Mutant(
            "the last flat's columns count again",
            "assign.cu",
            "own = begin <= own_column",
            "own = begin - 2 <= own_column",
        ),
        Mutant("squares of the last flat stay", "assign.cu", "for (int i = 0; i < 4; i++) squares[i] = 0;", ";"),
        Mutant("sums are parked in a neighbour's place", "assign.cu", "+ 4 * threadIdx.x;", "+ 4 * (threadIdx.x / 2);"),
        Mutant("earlier tiles of a flat are forgotten", "assign.cu", "= {parked[0],", "= {0 * parked[0],"),
        Mutant(
            "lanes add the wrong halves",
            "assign.cu",
            "upper ? parts[0] : parts[2], 2)",
            "upper ? parts[2] : parts[0], 2)",
        ),
        Mutant("lanes add the wrong rows", "assign.cu", "odd ? even_row : odd_row, 1)", "odd ? even_row : odd_row, 2)"),
        Mutant("the offset is squared", "assign.cu", "along_offset ? flat", "false ? flat"),
        Mutant(
            "residuals go below zero",
            "assign.cu",
            "flat.terms.constant - sum, (Real)0)",
            "flat.terms.constant - sum, (Real)-1)",
        ),
        Mutant("ties go to the highest flat", "assign.cu", "cost < least)", "cost <= least)"),
        Mutant("ties go to the highest split", "assign.cu", "< costs[best * n + row])", "<= costs[best * n + row])"),
        Mutant("weights are ignored", "assign.cu", "weight * distance", "distance"),
        Mutant("energy is measured about the origin", "assign.cu", "centre ? __ldg(centre + j) : 0", "0"),
    ],
    "exercise_screen": [
        Mutant(
            "nobody waits for the others' copies",
            "screen.cu",
            "      cp_async_wait<STAGES - 2>();\n      __syncthreads();",
            "      cp_async_wait<STAGES - 2>();",
        ),
        Mutant(
            "the newest copies are not waited for",
            "screen.cu",
            "cp_async_wait<STAGES - 2>",
            "cp_async_wait<STAGES - 1>",
        ),
        Mutant("copies overtake by a stage", "screen.cu", "fetch(tile + STAGES - 1)", "fetch(tile + STAGES)"),
        Mutant("a tile begins where none does", "screen.cu", "at % FRAGMENTS == 0", "at % FRAGMENTS == 1"),
        Mutant(
            "operands of rows change places",
            "rows.cuh",
            "a[2 * s + r / 2][h + 2 * (r % 2)]",
            "a[2 * s + r % 2][h + 2 * (r / 2)]",
        ),
        Mutant("lanes add the wrong halves", "rows.cuh", "upper ? p[0] : p[2], 2)", "upper ? p[2] : p[0], 2)"),
        Mutant("lanes add the wrong flats", "rows.cuh", "odd ? even : uneven, 1)", "odd ? even : uneven, 2)"),
        Mutant("the third best is forgotten", "screen.cu", "c = max(c, w);", "c = max(c, u & 0);"),
        Mutant("the second best is forgotten", "screen.cu", "  b = max(b, u);", "  b = max(b, w);"),
        Mutant(
            "negative keys are the larger ones",
            "screen.cu",
            "u ^ ((unsigned)((int)u >> 31) | 0x80000000u)",
            "u ^ 0x80000000u",
        ),
        Mutant("flats past the last count", "screen.cu", "flat < k ? named : 0", "named"),
        Mutant(
            "ties go to the highest flat",
            "screen.cu",
            "const unsigned name = number - flat;",
            "const unsigned name = flat;",
        ),
        Mutant("complements count as bases", "screen.cu", "key = own.x * key +", "key = key +"),
        Mutant("complements lack the row's square", "screen.cu", "(own.x < 0 ? square[m][h] : 0.f)", "0.f"),
        Mutant("offsets do not count along the row", "screen.cu", "s * own.y * along[m][h]", "0"),
        Mutant("squares of offsets do not count", "screen.cu", "(w * own.z + own.w)", "own.w"),
        Mutant("penalties are not scaled", "screen.cu", "s * s * (w * own.z + own.w)", "(s * s * w * own.z + own.w)"),
        Mutant("weights are ignored", "screen.cu", "key = w * key - s", "key = key - s"),
        Mutant("the bound lacks what flats lost", "screen.cu", "rounded + (loss +", "rounded + (0 * loss +"),
        Mutant("the bound lacks what rows lost", "screen.cu", "off = rounded +", "off = 0 * rounded +"),
        Mutant("half of the bound", "screen.cu", "> 2 * bound + lost", "> bound + lost"),
        Mutant(
            "the bound lacks the last bits", "screen.cu", "> 2 * bound + lost_bits(", "> 2 * bound + 0 * lost_bits("
        ),
        Mutant("the bound lacks offsets", "screen.cu", "bound += shift * (rounded", "bound += 0 * (rounded"),
        Mutant("the bound lacks weights", "screen.cu", "bound = w * bound +", "bound = bound +"),
        Mutant("rows of three near flats are pairs", "screen.cu", "if (!far(three))", "if (false)"),
        Mutant("rows of two near flats are proven", "screen.cu", "else if (!far(two))", "else if (false)"),
        Mutant(
            "the second of a pair is the first", "screen.cu", "number - (b[1] & number);", "number - (b[0] & number);"
        ),
        Mutant("pairs are decided without penalties", "screen.cu", "+ terms[4 * high + 2];", "+ terms[4 * low + 2];"),
        Mutant("pairs keep the flat that came first", "screen.cu", "second < first ? high : low", "low"),
        Mutant(
            "pairs: the last directions are dropped", "screen.cu", "if (first + r >= end)", "if (first + r >= end - 1)"
        ),
        Mutant("pairs: offsets are ignored", "screen.cu", ": offsets ? (float)(x[i]", ": false ? (float)(x[i]"),
        Mutant("rows are not measured", "halves.cu", "error += ex * ex + ey * ey;", ";"),
        Mutant("rows are not centred", "halves.cu", "- (centre ? centre[i] : 0.f)", ""),
        Mutant("flats are not measured", "halves.cu", "= v[q][h] - half_to_float(rounded);", "= 0;"),
        Mutant("shifts are forgotten", "halves.cu", "if (lane == 0) sums[r] += shift;", ";"),
        Mutant(
            "the offset along a flat counts as across",
            "halves.cu",
            "return exact ? along : offset(i) - along;",
            "return exact ? along : offset(i);",
        ),
        Mutant(
            "an offset has its first half alone",
            "halves.cu",
            "float_to_half(u - half_to_float(high))",
            "float_to_half(0.f)",
        ),
        Mutant("counters go on", "halves.cu", "counters[thread] = 0;", ";"),
        Mutant(
            "screened by assign.cu: operands of rows change places",
            "products.cuh",
            "rows.x[j / 2][i / 2][i % 2 + j % 2 * 2]",
            "rows.x[j / 2][i / 2][i % 2 * 2 + j % 2]",
        ),
        Mutant("directions stand one beside the other", "halves.cu", "(tile == 8 ? 8 : 2)", "2"),
        Mutant("flats by size have numbers by place", "screen.cu", ": names[4 * quad + t]", ": 4 * quad + t"),
        Mutant("parts: the bound lacks what rows lost", "halves.cu", "off = rounded +", "off = 0 * rounded +"),
        Mutant("parts: the bound lacks what flats lost", "halves.cu", "(sqrtf(loss) + d", "(0 * sqrtf(loss) + d"),
        Mutant(
            "parts: the first piece of a flat alone is measured",
            "halves.cu",
            "i < pieces[c + 1]; i++",
            "i < pieces[c] + 1; i++",
        ),
        Mutant(
            "parts: the second lowest is forgotten",
            "halves.cu",
            "low == label ? second : lowest",
            "low == label ? infinity : lowest",
        ),
        Mutant("parts: no row is listed", "halves.cu", "if (!(upper <", "if (false && !(upper <"),
        Mutant("parts: all but the last are forgotten", "halves.cu", "sum += parts[p * n + i];", ";"),
        Mutant(
            "parts: sums are added to what they are missing in",
            "halves.cu",
            "last + sum : last - sum",
            "last + sum : last + sum",
        ),
        Mutant(
            "parts: numbers in the list are taken for rows",
            "halves.cu",
            "const int row = list[i];",
            "const int row = i;",
        ),
        Mutant(
            "listed rows are others", "assign.cu", "__ldg(source.list + (there ? 8 * i : 0))", "(there ? 8 * i : 0)"
        ),
        Mutant(
            "listed rows are not written where they belong",
            "assign.cu",
            "labels[LISTED ? list[row] : row]",
            "labels[row]",
        ),
    ],
    "exercise_eigenspaces": [
        Mutant(
            "a column is taken before its warp has lent it",
            "eigen.cu",
            "border[warp][lane + 32 * r] = x[r][0];\n      __syncthreads();",
            "border[warp][lane + 32 * r] = x[r][0];",
        ),
        Mutant(
            "a lent column is taken back before it has been turned",
            "eigen.cu",
            "border[warp + 1][lane + 32 * r] = x[r][0];\n      __syncthreads();",
            "border[warp + 1][lane + 32 * r] = x[r][0];",
        ),
        Mutant(
            "a column of L is used before it is written",
            "eigen.cu",
            "    __syncthreads();\n    if (k + 1 < d &&",
            "    if (k + 1 < d &&",
        ),
        Mutant("turns are used before they are written", "eigen.cu", "  __syncwarp();\n", ""),
        Mutant(
            "places are used before they are found",
            "eigen.cu",
            "  __syncthreads();\n#pragma unroll 1",
            "#pragma unroll 1",
        ),
        Mutant(
            "columns turn the wrong way", "eigen.cu", "gap < 0 ? -product : product", "gap < 0 ? product : -product"
        ),
        Mutant(
            "one column of a pair turns by the cosine alone",
            "eigen.cu",
            "a - turn.sine * (b + turn.half * a)",
            "a - turn.sine * (turn.half * a)",
        ),
        Mutant(
            "the last pair of a warp is not the one that was multiplied",
            "eigen.cu",
            "right = (left + 1) % COLUMNS;",
            "right = left + 1 < COLUMNS ? left + 1 : left - 1;",
        ),
        Mutant("the tail changes places", "eigen.cu", "if (2 * pair + 1 < places)", "if (2 * pair < places)"),
        Mutant(
            "the last warp borrows from itself",
            "eigen.cu",
            "warp + 1 < warps ? border[warp + 1]",
            "true ? border[warp]",
        ),
        Mutant(
            "lanes add the wrong halves", "eigen.cu", "(upper ? v[i + N / 2] : v[i])", "(upper ? v[i] : v[i + N / 2])"
        ),
        Mutant("one sweep is enough", "eigen.cu", "large[warp] = large_here", "large[warp] = false"),
        Mutant("eigenvalues ascend", "eigen.cu", "energy[i] > mine ||", "energy[i] < mine ||"),
        Mutant("equal eigenvalues share a place", "eigen.cu", " || (energy[i] == mine && i < threadIdx.x)", ""),
        Mutant("the shift stays in the eigenvalues", "eigen.cu", "(double)mine - SHIFT", "(double)mine"),
        Mutant("the scale stays in the eigenvalues", "eigen.cu", "value * power_of_two(unit)", "value"),
        Mutant("eigenvectors keep their lengths", "eigen.cu", "v[r] * inverse[first + slot]", "v[r]"),
    ],
    "exercise_power": [
        Mutant("S is not scaled", "power.cu", "(REAL)(scale * S[i])", "(REAL)S[i]"),
        Mutant("nothing keeps the rank", "power.cu", "== 0 ? SHIFT : 0", "== 0 ? 0 : 0"),
        Mutant(
            "a basis is used before it is there", "power.cu", "definite = true;\n  __syncthreads();", "definite = true;"
        ),
        Mutant(
            "products are used before they are there",
            "power.cu",
            "= sums;\n    }\n    __syncthreads();",
            "= sums;\n    }",
        ),
        Mutant(
            "a Gram matrix is used before it is there",
            "power.cu",
            "= product;\n    }\n    __syncthreads();",
            "= product;\n    }",
        ),
        Mutant(
            "a factor is used before it is there",
            "power.cu",
            "definite = is;\n    }\n    __syncthreads();",
            "definite = is;\n    }",
        ),
        Mutant(
            "a step begins before the last has ended",
            "power.cu",
            "+ r];\n        }\n    __syncthreads();",
            "+ r];\n        }",
        ),
        Mutant(
            "a pivot is written before it was read",
            "cholesky.cuh",
            "// of infinity it is zero\n    __syncwarp();",
            "// of infinity it is zero",
        ),
        Mutant(
            "a column of L is used before it is there", "cholesky.cuh", "* inverse;\n    __syncwarp();", "* inverse;"
        ),
        Mutant(
            "a column of L is scaled before it is complete",
            "cholesky.cuh",
            "* gram[c * pitch + i];\n    __syncwarp();",
            "* gram[c * pitch + i];",
        ),
        Mutant("the diagonal stays", "cholesky.cuh", "c <= r;", "c < r;"),
        Mutant("a pivot is divided by its root", "cholesky.cuh", "r == i ? inverse :", "false ? inverse :"),
        Mutant("everything is definite", "cholesky.cuh", "definite &= pivot > 0 && inverse > 0", "definite &= true"),
        Mutant("what no one gave is taken for a basis", "power.cu", "definite || start ?", "true ?"),
        Mutant("what the first factor cost is not made good", "power.cu", "step <= steps &&", "step < steps &&"),
        Mutant("the rows of a flat are those of the first", "power.cu", "V += starts[c] * d;\n\n", "\n"),
        Mutant("the mean is not taken away", "power.cu", "x - first[row] * right -", "x -"),
        Mutant("the offset weighs nothing", "power.cu", "+ mass[c] * down * right", "+ down * right"),
        Mutant("a flat's rows are counted by fours", "power.cu", "i / d < j ? V[i] : 0", "V[i]"),
        Mutant(
            "panels are read before they are there",
            "subspace.cu",
            "across[4 * warp + r][lane] = above[r];\n      __syncthreads();",
            "across[4 * warp + r][lane] = above[r];",
        ),
        Mutant(
            "panels are written while others read",
            "subspace.cu",
            "for (int before = 0; before < first; before += PANEL) {\n      __syncthreads();",
            "for (int before = 0; before < first; before += PANEL) {",
        ),
        Mutant(
            "the last panel is written while others read",
            "subspace.cu",
            "    __syncthreads();\n#pragma unroll\n    for (int r = 0; r < 4; r++) rows[4 * warp + r][lane] = own[r]",
            "#pragma unroll\n    for (int r = 0; r < 4; r++) rows[4 * warp + r][lane] = own[r]",
        ),
        Mutant(
            "a block is read before it is there",
            "subspace.cu",
            "PITCH + lane] = block[r];\n    __syncthreads();",
            "PITCH + lane] = block[r];",
        ),
        Mutant(
            "the same panel again",
            "subspace.cu",
            "read(before + PANEL, theirs, above);",
            "read(before, theirs, above);",
        ),
        Mutant("the diagonal block stays as it was", "subspace.cu", ", block[r] -= four.x[r] * corner", ""),
        Mutant("strips begin at the diagonal", "subspace.cu", "turn / k + 1;", "turn / k;"),
        Mutant(
            "blocks count as the card names them", "turns.cuh", "turn = atomicAdd(begun, 1u);", "turn = blockIdx.x;"
        ),
        Mutant("nobody tells of columns of the matrix", "subspace.cu", "if (of_G) tell(done + strip);", ""),
        Mutant(
            "the next launch finds turns taken",
            "subspace.cu",
            "i < 2 + k * panels; i += THREADS) turns",
            "i < 0;) turns",
        ),
        Mutant(
            "all blocks are the last", "turns.cuh", "atomicAdd(ended, 1u) == blocks - 1", "atomicAdd(ended, 1u) >= 0"
        ),
        Mutant(
            "columns of the matrix stop a panel early",
            "subspace.cu",
            "panel < min(strip, panels)",
            "panel + of_G < min(strip, panels)",
        ),
        Mutant("rows are not divided by the diagonal", "subspace.cu", "x[i] *= factor[i * PITCH + i];", ";"),
        Mutant(
            "nobody tells of rows that are alike",
            "subspace.cu",
            "<= ALIKE)) ok[c] = false;",
            "<= ALIKE)) ok[c] = ok[c];",
        ),
        Mutant(
            "another row's square",
            "subspace.cu",
            "if (4 * warp + r == lane) squares[lane]",
            "if (4 * warp + r == 0) squares[lane]",
        ),
        Mutant(
            "pieces overlap", "subspace.cu", "blockIdx.x % PIECES * THREADS + threadIdx.x, size", "threadIdx.x, size"
        ),
        Mutant("products of another flat", "subspace.cu", "Y += (size_t)c * size;", "Y += 0;"),
        Mutant("traces are forgotten", "subspace.cu", "sum += S[(size_t)i * d + i];", "sum += 0;"),
        Mutant(
            "quotients of another row",
            "subspace.cu",
            "sum += V[row * d + i] * H[row * d + i];",
            "sum += V[i] * H[row * d + i];",
        ),
        Mutant(
            "the least is not that of all warps",
            "subspace.cu",
            "low = min(low, least[warp]), high = max(high, most[warp]);",
            ";",
        ),
        Mutant(
            "the least is looked for before it is there",
            "subspace.cu",
            "most[threadIdx.x / 32] = high;\n  __syncthreads();",
            "most[threadIdx.x / 32] = high;",
        ),
        Mutant(
            "zeros that fill up are the least",
            "subspace.cu",
            "for (int i = threadIdx.x; i < j; i += THREADS) {\n    const double quotient",
            "for (int i = threadIdx.x; i < width; i += THREADS) {\n    const double quotient",
        ),
        Mutant(
            "no spectrum is steep",
            "subspace.cu",
            "const bool steep = !(high <= STEEP * low);",
            "const bool steep = false;",
        ),
        Mutant(
            "every spectrum is steep",
            "subspace.cu",
            "const bool steep = !(high <= STEEP * low);",
            "const bool steep = true;",
        ),
        Mutant("the identity is of ones", "subspace.cu", "(i % d == i / d ? c0 + g : 0)", "c0 + g"),
        Mutant("numbers of the first basis", "subspace.cu", "(c0 - g) * V[at]", "(c0 - g) * V[i]"),
        Mutant("numbers of the first matrix", "subspace.cu", "a * S[at]", "a * S[i]"),
        Mutant("both factors are alike", "subspace.cu", "c0 + g : 0", "c0 - g : 0"),
        Mutant("rows are matrices", "subspace.cu", "i -= left_blocks * THREADS;", ""),
    ],
    "exercise_subspace": [
        Mutant("rows that fill up are not zero", "subspace.cu", "V[i] = i >= size ? 0 :", "V[i] ="),
        Mutant(
            "all begin with the first",
            "subspace.cu",
            "number(start, single, starts[c] * d + i)",
            "number(start, single, i)",
        ),
        Mutant("no shift", "subspace.cu", "i % (d + 1) == 0 ? SHIFT : 0", "0"),
        Mutant(
            "a product at hand is another flat's", "subspace.cu", "product[(size_t)c * width * d + i]", "product[i]"
        ),
        Mutant("a product at hand is not taken", "subspace.cu", "  if (product)\n", "  if (false)\n"),
        Mutant(
            "the trace is that of one warp", "subspace.cu", "i < d; i += THREADS) trace", "i < 32; i += THREADS) trace"
        ),
        Mutant("what failed is kept", "subspace.cu", "ok[c] ? V", "true ? V"),
        Mutant(
            "what failed is another's", "subspace.cu", "number(start, single, before + i)", "number(start, single, i)"
        ),
        Mutant("some flats leave less than nothing", "subspace.cu", "sum < 0 ? 0 : sum,", "sum,"),
        Mutant("one piece is all", "subspace.cu", "warp_sum(pieces[", "(pieces["),
        Mutant("pieces of the first flat", "subspace.cu", "pieces[c * PIECES + threadIdx.x]", "pieces[threadIdx.x]"),
        Mutant("the next launch finds pieces", "subspace.cu", ", ended[c] = 0;", ";"),
        Mutant("what fills up keeps what failed", "subspace.cu", "if (i >= size) V[i] = x;", "if (i >= size) ;"),
        Mutant(
            "what is kept is not what is given",
            "subspace.cu",
            "V[i] = ((float*)out)[before + i]",
            "((float*)out)[before + i]",
        ),
    ],
    "exercise_status": [
        Mutant("numbers of the array before", "status.cu", "if (0 <= i && i < sizes[array])", "if (i < sizes[array])"),
        Mutant("arrays are alike", "status.cu", "i -= sizes[array];", "i -= sizes[0];"),
        Mutant("flags are whole numbers", "status.cu", "at<bool>", "at<int>"),
        Mutant("large numbers lose a half", "status.cu", "at<long long>", "at<int>"),
        Mutant("float32 is read as float64", "status.cu", "at<float>", "at<double>"),
    ],
    "exercise_moments": [
        Mutant("rows of a label change places", "groups.cu", "((1u << lane) - 1)", "(~0u << lane << 1)"),
        Mutant(
            "a counter is written before it was read",
            "groups.cu",
            "    __syncwarp();  // every peer has read the counter\n",
            "",
        ),
        Mutant("labels lose their highest bit", "groups.cu", "bit < bits", "bit + 1 < bits"),
        Mutant("a segment is told before all is counted", "groups.cu", "return;\n  __syncthreads();", "return;"),
        Mutant("rows that stayed are those that moved", "groups.cu", "before[row] != label", "before[row] == label"),
        Mutant("rows that moved have the last label", "groups.cu", "counters + k, moved", "counters + k - 1, moved"),
        Mutant("runs begin before all are counted", "groups.cu", "1u);\n    __syncthreads();", "1u);"),
        Mutant("earlier runs are forgotten", "groups.cu", "*counter = sum;", "*counter = counts[c];"),
        Mutant("earlier segments are forgotten", "groups.cu", "i < part; i++", "i < 0; i++"),
        Mutant(
            "labels start where they end",
            "groups.cu",
            "starts[g] = row;\n    row += totals[g];",
            "starts[g] = row += totals[g];",
        ),
        Mutant("the last label has no end", "groups.cu", "if (totals) starts[k] = row;", ""),
        Mutant("a group's last rows are in no slot", "groups.cu", " + chunk - 1) / chunk", ") / chunk"),
        Mutant("nobody cuts groups", "groups.cu", "is_last(counts + segments * width, gridDim.x)", "false"),
        Mutant(
            "the first block cuts groups",
            "groups.cu",
            "is_last(counts + segments * width, gridDim.x)",
            "blockIdx.x == 0",
        ),
        Mutant("blocks go on counting", "groups.cu", "counts[(long long)gridDim.x * (k + 1)] = 0;", ";"),
        Mutant("slots are counted up to and with a group", "groups.cu", "sums[t] - own", "sums[t]"),
        Mutant("a slot runs into the next group", "slots.cuh", "left < chunk ? (int)left : chunk", "chunk"),
        Mutant("a stage is not waited for", "tile.cuh", "cp_async_wait<RING - 2>", "cp_async_wait<RING - 1>"),
        Mutant(
            "a stage is read before others have it, and filled while they read",
            "tile.cuh",
            "__syncthreads();  // this stage",
            "// this stage",
        ),
        Mutant(
            "a stage too few is kept apart",
            "tile.cuh",
            "start(step + RING - 1)",
            "start(step + RING)",
        ),
        Mutant("the wrong origin", "moments.cu", "shift + TILE + c", "shift + c"),
        Mutant("weights count twice", "moments.cu", "(Real)sqrt(weights[i])", "(Real)weights[i]"),
        Mutant("columns of a tile that is not there", "moments.cu", "x && row + c < d", "x && row + c < d - 1"),
        Mutant(
            "slots of an earlier turn are added again", "moments.cu", "max(slots[group], first_slot)", "slots[group]"
        ),
        Mutant("rows that leave are added", "moments.cu", "fold(c, -1)", "fold(c, 1)"),
        Mutant("what lay in memory is added", "moments.cu", "if (!fresh && inside", "if (inside"),
        Mutant("groups without rows keep what lay there", "moments.cu", "if (!fresh && first(come)", "if (first(come)"),
        Mutant("sums stay about the origin", "sums.cu", "total - weight * mean", "total"),
        Mutant("the mirror image is not turned", "moments.cu", "+ row + m] = found[m][n]", "+ row + m] = found[n][m]"),
        Mutant(
            "sums before all rows were read",
            "sums.cu",
            "= sum;\n  __syncthreads();",
            "= sum;",
        ),
        Mutant("one row in eight is not summed", "sums.cu", "i < STRIDES;", "i < STRIDES - 1;"),
        Mutant(
            "the first correction is missing",
            "tile.cuh",
            "mma_m16n8k8_tf32(fresh[n], a_low, b_high[n])",
            "(void)a_low",
        ),
        Mutant(
            "the second correction is missing",
            "tile.cuh",
            "mma_m16n8k8_tf32(fresh[n], a_high, b_low[n])",
            "(void)b_low",
        ),
        Mutant(
            "two registers of a fragment change places",
            "tile.cuh",
            "(16 * m + 8 * (i % 2)) * AM + (t0 + 4 * (i / 2)) * AT",
            "(16 * m + 8 * (i / 2)) * AM + (t0 + 4 * (i % 2)) * AT",
        ),
        Mutant("fragments of two steps overlap", "tile.cuh", "b[(t0 + 4 * i) * BT", "b[(t0 + 2 * i) * BT"),
        Mutant(
            "the last rows of a tile are left out", "tile.cuh", "row() + 16 * m >= rows", "row() + 16 * m + 15 >= rows"
        ),
        Mutant("float64 rows too near", "tile.cuh", "a[m * THREADS_M * AM", "a[m * AM"),
    ],
    "exercise_seeding": [
        Mutant(
            "weights do not count in the first costs",
            "seeding.cu",
            "    costs[row] = cost, labels[row] = 0;\n    sum += (double)weight_of(weights, row) * cost;",
            "    costs[row] = cost, labels[row] = 0;\n    sum += cost;",
        ),
        Mutant(
            "histograms are not cleared", "seeding.cu", "i += 1024) histogram[i] = 0;", "i += 1024) histogram[i] += 0;"
        ),
        Mutant(
            "running sums forget the warps before",
            "seeding.cu",
            "for (int w = 0; w < thread / 32; w++) end += warps[w];",
            "",
        ),
        Mutant(
            "a block of rows is not looked for", "seeding.cu", "chosen[i] = b, targets[i]", "chosen[i] = 0, targets[i]"
        ),
        Mutant(
            "the last row of a thread's share is drawn",
            "seeding.cu",
            "if (i == r && before + cost[r] <= target)",
            "if (i == r)",
        ),
        Mutant(
            "weights do not count in a draw",
            "seeding.cu",
            "row < n ? (double)weight_of(weights, row) * costs[row] : 0;",
            "row < n ? (double)costs[row] : 0;",
        ),
        Mutant(
            "columns of cosines change places",
            "seeding.cu",
            "product[2 * h] * length * inverse[0], product[2 * h + 1]",
            "product[2 * h + 1] * length * inverse[0], product[2 * h]",
        ),
        Mutant(
            "a candidate's length is another's",
            "seeding.cu",
            "inverse[e] = inverse_length(candidates[2 * t + e])",
            "inverse[e] = inverse_length(candidates[2 * t])",
        ),
        Mutant("cosines have no sign", "seeding.cu", "? 1 - both[e] : 0;", "? 1 - fabsf(both[e]) : 0;"),
        Mutant(
            "sums of potentials change places", "seeding.cu", "lane % 2 ? second : first", "lane % 2 ? first : second"
        ),
        Mutant(
            "potentials of other candidates",
            "seeding.cu",
            "lane / 4 * 4 + lane % 4 / 2), second",
            "lane / 4 * 4), second",
        ),
        Mutant("rows of length zero cost something", "seeding.cu", "energy[row] > 0 ? 2.f : 0.f", "2.f"),
        Mutant(
            "rows of weight zero are near",
            "seeding.cu",
            "const bool counted = weight_of(weights, row) > 0;",
            "const bool counted = true;",
        ),
        Mutant(
            "a block counts from what the last one left",
            "seeding.cu",
            "i += THREADS) counts[i] = 0;",
            "i += THREADS) counts[i] += 0;",
        ),
        Mutant(
            "the bin below is near as well",
            "seeding.cu",
            "if (above >= m) break;\n      }",
            "if (above > m + 8) break;\n      }",
        ),
        Mutant(
            "the share of a candidate is another's",
            "seeding.cu",
            "bins[row * CANDIDATES + c] >= from",
            "bins[row * CANDIDATES] >= from",
        ),
        Mutant("the list of a warp is begun anew", "seeding.cu", "count += __popc(taken);", "count = __popc(taken);"),
        Mutant(
            "rows are read before all are listed",
            "seeding.cu",
            "if (lane == 0) counts[warp] = count;\n    __syncthreads();",
            "if (lane == 0) counts[warp] = count;",
        ),
        Mutant(
            "lists are overwritten while they are read",
            "seeding.cu",
            "      }\n    }\n    __syncthreads();\n  }\n  if (!working) return;",
            "      }\n    }\n  }\n  if (!working) return;",
        ),
        Mutant(
            "later runs of rows are left out",
            "seeding.cu",
            "first += (long long)gridDim.x * LISTED) {\n    int count",
            "first += n) {\n    int count",
        ),
        Mutant(
            "weights do not count in moments", "seeding.cu", "ratio * ratio * weight_of(weights, row)", "ratio * ratio"
        ),
        Mutant(
            "a partial is left out",
            "seeding.cu",
            "for (int p = 0; p < count; p++) sum += partials",
            "for (int p = 0; p + 1 < count; p++) sum += partials",
        ),
        Mutant(
            "a row's operands change places",
            "rows.cuh",
            "a[2 * s + r / 2][h + 2 * (r % 2)]",
            "a[2 * s + r % 2][h + 2 * (r / 2)]",
        ),
        Mutant("lanes add the wrong sums", "rows.cuh", "return (odd ? uneven : even)", "return (odd ? even : uneven)"),
        Mutant(
            "a flat of eight directions",
            "seeding.cu",
            "for (int f = 0; f < fragments; f++) {",
            "for (int f = 0; f < 1; f++) {",
        ),
        Mutant("distances stay scaled", "seeding.cu", "energy[row] - square * length * length", "energy[row] - square"),
        Mutant("the potential has no costs", "seeding.cu", "min(costs[row], residual);\n    }", "residual;\n    }"),
        Mutant("the worst candidate is taken", "seeding.cu", "total < lowest", "total > lowest"),
        Mutant("costs rise", "seeding.cu", "if (residual < cost) costs[row] = residual", "costs[row] = residual"),
        Mutant(
            "steps by S alone, from rows not orthonormal",
            "candidates.cu",
            "y[r * PITCH + t] -= factor * y[i * PITCH + t];",
            ";",
        ),
        Mutant(
            "two rows of a product are one",
            "candidates.cu",
            "left[(r + 1) * pitch + i] * entry",
            "left[r * pitch + i] * entry",
        ),
        Mutant(
            "rows are taken away before they are finished",
            "candidates.cu",
            "-= factor * y[i * PITCH + t];\n    }\n    __syncthreads();",
            "-= factor * y[i * PITCH + t];\n    }",
        ),
        Mutant("directions beyond the last", "candidates.cu", "i / WIDTH < j ? scrambled(i) : 0.f", "scrambled(i)"),
    ],
    "exercise_grouped": [
        Mutant("lanes are added by halves", "grouped.cu", "int step = 16", "int step = 8"),
        Mutant(
            "the offset of another group",
            "grouped.cu",
            "offsets[(long long)slot.group * d + column]",
            "offsets[column]",
        ),
        Mutant("the basis of another group", "grouped.cu", "firsts[slot.group] * d;", "0 * d;"),
        Mutant(
            "the last column is left out", "grouped.cu", "lane + 32 * i < d ? __ldg", "lane + 32 * i + 1 < d ? __ldg"
        ),
        Mutant("what flats capture is added", "grouped.cu", "fma(-product", "fma(product"),
        Mutant("later parts of a slot are left out", "grouped.cu", "(int)(blockIdx.x % PARTS + 1) * PART", "PART"),
        Mutant(
            "a part ends where the slot does",
            "grouped.cu",
            "min(slot.size, (int)(blockIdx.x % PARTS + 1) * PART)",
            "slot.size - 1",
        ),
        Mutant(
            "residuals stay in the order of groups",
            "grouped.cu",
            "residuals[order[slot.begin + first + r]] = square",
            "residuals[slot.begin + first + r] = square",
        ),
        Mutant("coefficients of all groups start alike", "grouped.cu", "places[slot.group] + place", "place"),
        Mutant("coefficients of a row change places", "grouped.cu", "place * dim + t]", "place * dim + dim - 1 - t]"),
        Mutant("offsets stay in rows for the library", "grouped.cu", "(mu ? mu[i] : 0)", "0"),
        Mutant(
            "squares stay in the order of groups",
            "grouped.cu",
            "residuals[rows[row]] = square",
            "residuals[row] = square",
        ),
    ],
    "exercise_lookup": [
        Mutant("a stage is not waited for", "tile.cuh", "cp_async_wait<RING - 2>", "cp_async_wait<RING - 1>"),
        Mutant(
            "a stage is read before others have it, and filled while they read",
            "tile.cuh",
            "__syncthreads();  // this stage",
            "// this stage",
        ),
        Mutant(
            "addresses are read before they are there",
            "lookup.cu",
            "  __syncthreads();\n\n  const int steps",
            "  const int steps",
        ),
        Mutant(
            "a row's place in the group, not in the result",
            "lookup.cu",
            "out[places[m] * d",
            "out[(slot.begin + m) * d",
        ),
        Mutant("the position of another row", "lookup.cu", "positions[rows[places[r]]]", "positions[places[r]]"),
        Mutant(
            "the offset of another cluster",
            "lookup.cu",
            "widen(offsets[(long long)c * d + column + n])",
            "widen(offsets[column + n])",
        ),
        Mutant("the last dimension is left out", "lookup.cu", "t0 + t < j ? basis", "t0 + t < j - 1 ? basis"),
        Mutant("float32 is multiplied as TF32", "lookup.cu", "sizeof(Stored) == 4 ? 3 : 1", "1"),
        Mutant("padding is forgotten", "lookup.cu", "add<DEPTH, LDA, 1, LDB>", "add<DEPTH, DEPTH, 1, LDB>"),
        Mutant("rows past the first of a slot", "lookup.cu", "(a, b, slot.size)", "(a, b, slot.size - 15)"),
        Mutant(
            "coefficients move by a lane",
            "lookup.cu",
            "__shfl_sync(0xffffffffu, own, t)",
            "__shfl_sync(0xffffffffu, own, t ^ 1)",
        ),
        Mutant(
            "strips of a row change places",
            "lookup.cu",
            "(int)(unit % strips) * STRIP",
            "(int)(unit / strips % strips) * STRIP",
        ),
        Mutant(
            "columns 32 apart become neighbours",
            "lookup.cu",
            "const int column = first + 32 * i;",
            "const int column = first + i;",
        ),
        Mutant(
            "columns change places as they are stored", "tile.cuh", "8 * n + 2 * t + i % 2", "8 * n + t + 4 * (i % 2)"
        ),
    ],
    "exercise_packed": [
        Mutant("a stage is not waited for", "tile.cuh", "cp_async_wait<RING - 2>", "cp_async_wait<RING - 1>"),
        Mutant("a stage is filled while others read", "tile.cuh", "__syncthreads();  // this stage", "// this stage"),
        Mutant(
            "rows are looked for before all are counted",
            "packed.cu",
            "    atomicAdd(counts + g, 1);\n  }\n  __syncthreads();",
            "    atomicAdd(counts + g, 1);\n  }",
        ),
        Mutant(
            "the slot is not waited for",
            "packed.cu",
            "  __syncthreads();\n  if (slot.size == 0) return;\n  find_rows",
            "  if (slot.size == 0) return;\n  find_rows",
        ),
        Mutant(
            "first bits are not waited for",
            "packed.cu",
            "  __syncthreads();\n  const long long first",
            "  const long long first",
        ),
        Mutant("rows of earlier warps are not counted", "packed.cu", "w < warp; w++", "w < warp - 1; w++"),
        Mutant("each slot has the first rows", "packed.cu", "rank = -slot.first", "rank = 0"),
        Mutant(
            "groups of earlier lanes are not counted",
            "packed.cu",
            "if (lane >= step) end += more",
            "if (lane > step) end += more",
        ),
        Mutant("groups of earlier turns are not counted", "packed.cu", "before += __shfl_sync(~0u, end, 31);", ""),
        Mutant("short tiles are dropped", "packed.cu", "(count + CHUNK - 1) / CHUNK", "count / CHUNK"),
        Mutant("a row's own lane is counted", "packed.cu", "found & ((1u << lane) - 1)", "found & ((2u << lane) - 1)"),
        Mutant(
            "another row's bits",
            "packed.cu",
            "firsts[r] = starts[slot.numbers[r]]",
            "firsts[r] = starts[slot.places[r]]",
        ),
        Mutant("another row's gain", "packed.cu", "gain[slot.numbers[r] * columns]", "gain[slot.places[r] * columns]"),
        Mutant("the gain of another block", "packed.cu", "gains + blocks[e]", "gains"),
        Mutant("windows begin at a byte", "packed.cu", "(int)(bit & 15)", "(int)(bit & 8)"),
        Mutant("windows end where bytes do", "packed.cu", " | (unsigned)word[1] << 16", ""),
        Mutant("the first windows are not shifted", "packed.cu", "<< shift & mask", "& mask"),
        Mutant("windows are too wide", "packed.cu", "<< shift & mask", "<< shift & (mask | mask + 1)"),
        Mutant("one table of levels for all", "packed.cu", "levels + (inside ? tables[e] : 0)", "levels"),
        Mutant("scales are left out", "packed.cu", "z = scale * table", "z = (inside ? 1 : scale) * table"),
        Mutant("the vectors of the first terms", "packed.cu", "directions[first + t0 + t]", "directions[t0 + t]"),
        Mutant("the last term is left out", "packed.cu", "t0 + t < terms ?", "t0 + t < terms - 1 ?"),
        Mutant("kept rows by their number", "packed.cu", "exact[starts[slot.numbers[r]]", "exact[slot.numbers[r] % 2"),
        Mutant(
            "a row's place in the tile, not in the result",
            "packed.cu",
            "out[(long long)slot.places[m]",
            "out[(long long)m",
        ),
        Mutant("the offset of another cluster", "packed.cu", "(long long)clusters[g] * d + column", "column"),
        Mutant("rows past the first of a tile", "packed.cu", "(a, b, slot.size)", "(a, b, slot.size - 15)"),
    ],
}
