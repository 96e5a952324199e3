#include "cuda/linalg.h"

#include "bindings/cuda/arguments.h"

namespace fastdl::binding {

void register_linalg(py::module_& m) {
  using cuda::Field;
  m.def("lu_scratch", [](int field, int64_t count, int64_t rows, int64_t columns) {
    return cuda::lu_scratch(Field(field), count, rows, columns);
  });
  m.def("lu_factor", [](int field, uintptr_t a, int64_t count, int64_t rows, int64_t columns, bool exchange,
                        uintptr_t pivots, uintptr_t info, uintptr_t scratch, uintptr_t stream) {
    cuda::lu_factor(Field(field), pointer(a), count, rows, columns, exchange, int32s(pivots), int32s(info),
                    pointer(scratch), stream_of(stream));
  });
  m.def("exchange_rows",
        [](int field, uintptr_t x, int64_t count, int64_t rows, int64_t columns, uintptr_t pivots,
           int64_t pivots_batch, int64_t steps, bool backwards, uintptr_t report, uintptr_t stream) {
          cuda::exchange_rows(Field(field), pointer(x), count, rows, columns, int32s(pivots), pivots_batch,
                              steps, backwards, report_words(report), stream_of(stream));
        });
  // The triangles: their address and the elements between matrices, rows and columns.
  m.def("triangular_solve",
        [](int field, std::tuple<uintptr_t, int64_t, int64_t, int64_t> a, bool upper, bool unit, int64_t n,
           uintptr_t b, int64_t count, int64_t columns, uintptr_t stream) {
          const auto [data, batch, row, column] = a;
          cuda::triangular_solve(Field(field), {pointer(data), batch, row, column}, upper, unit, n,
                                 pointer(b), count, columns, stream_of(stream));
        });
}

}  // namespace fastdl::binding
