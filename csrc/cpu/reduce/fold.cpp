// Folds over any set of axes: out[k] = join over r of map(x[k, r], y[k, r]).
//
// Sums are kept in double: lanes of T add up blocks of 32 vectors at most (4 chains of 8, or 2 of 16), whose sums go to
// double accumulators; errors of a block are a few roundings of its own size, whatever the length of the
// whole. Maps that need it (powers, deviations, products of everything) are computed in double altogether.
// Two shapes of loop, by where x is contiguous: along the reduced axes (fold_rows.h) or along the kept ones
// (fold_columns.h).
#include "cpu/reduce/fold_columns.h"
#include "cpu/reduce/fold_rows.h"

namespace fastdl {
namespace {

// Is x read along kept axes? Where both lie side by side, in windows that overlap, along the longer ones.
bool inner_is_kept(const ReduceProblem& p, int64_t item) {
  if (p.kept_axes == 0 || p.kept[p.kept_axes - 1].x != item) return false;
  if (p.reduced_axes == 0 || p.reduced[p.reduced_axes - 1].x != item) return true;
  return p.reduced[p.reduced_axes - 1].extent < p.kept[p.kept_axes - 1].extent;
}

template <class T, class U, class C, Second second, class Join, int chains, class Map>
void run(const ReduceProblem& p, Map map, const FoldOutput& out) {
  if (inner_is_kept(p, sizeof(T))) {
    using Folding = ColumnFolder<T, U, C, second, Join, Map, chains>;
    fold_columns(Folding(p, out, map), Folding::loop);
  } else {
    using Folding = RowFolder<T, U, C, second, Join, Map, chains>;
    fold_rows(Folding(p, out, map), Folding::loops);
  }
}
// map(x) computed in C.
template <class T, class C, class Join, int chains = 4, class Map>
void run_one(const ReduceProblem& p, const FoldOutput& out, Map map) {
  run<T, T, C, Second::none, Join, chains>(p, [map](auto x, auto) { return map(x); }, out);
}
// map(x, y) with y of type U.
template <class T, class U, class C, int chains = 4, class Map>
void run_two(const ReduceProblem& p, const FoldOutput& out, Map map) {
  // The stride of y along the axis in which x is contiguous.
  int64_t along = 0;
  if (inner_is_kept(p, sizeof(T)))
    along = p.kept[p.kept_axes - 1].y;
  else if (p.reduced_axes > 0)
    along = p.reduced[p.reduced_axes - 1].y;
  if (along == 0)
    run<T, U, C, Second::constant, Add, chains>(p, map, out);
  else
    run<T, U, C, Second::each, Add, chains>(p, map, out);
}

// The element type of a vector.
template <class V>
using Lane = std::remove_reference_t<decltype(std::declval<V&>()[0])>;
template <class V>
[[gnu::always_inline]] inline V magnitude(V x) {
  return simd::abs<Lane<V>>(x);
}

[[gnu::noinline]] D any_power(D x, D e) {  // five loops of each type would hold it twice
  return power<double>(x, e);
}

}  // namespace

template <class T>
void fold(Fold op, const ReduceProblem& p, double parameter, const FoldOutput& out) {
  if (p.kept_size == 0) return;
  if (p.reduced_size == 0) {
    double start = Add::start;
    if (op == Fold::product) start = Multiply::start;
    if (op == Fold::maximum || op == Fold::maximum_abs) start = Max::start;
    if (op == Fold::minimum || op == Fold::minimum_abs) start = Min::start;
    for (int64_t k = 0; k < p.kept_size; ++k)
      if (out.as_double)
        static_cast<double*>(out.data)[k] = start * out.scale;
      else
        static_cast<T*>(out.data)[k] = T(start * out.scale);
    return;
  }
  switch (op) {
    case Fold::sum:
      return run_one<T, T, Add>(p, out, [](auto x) { return x; });
    case Fold::sum_number:
      return run_one<T, T, Add>(p, out, [](auto x) { return x == x ? x : decltype(x){}; });
    case Fold::sum_abs:
      return run_one<T, T, Add>(p, out, [](auto x) { return magnitude(x); });
    case Fold::sum_square:  // in double: squares of floats overflow and underflow early
      return run_one<T, double, Add>(p, out, [](D x) { return x * x; });
    case Fold::sum_power: {
      const double order = std::abs(parameter);
      if (!(order == 1 || order == 2 || order == 3 || order == 4))
        return run_one<T, double, Add, 1>(
            p, out, [e = broadcast<double>(parameter)](D x) { return any_power(magnitude(x), e); });
      // Small whole powers are products: a twentieth of the time.
      return run_one<T, double, Add>(p, out, [whole = int(order), inverse = parameter < 0](D x) {
        const D size = magnitude(x), square = size * size;
        const D y = whole == 1 ? size : whole == 2 ? square : square * (whole == 3 ? size : square);
        return inverse ? 1.0 / y : y;
      });
    }
    case Fold::nonzero:
      return run_one<T, double, Add>(p, out, [](D x) { return x != 0.0 ? broadcast<double>(1) : D{}; });
    case Fold::product:
      return run_one<T, double, Multiply>(p, out, [](D x) { return x; });
    case Fold::maximum:
      return run_one<T, T, Max>(p, out, [](auto x) { return x; });
    case Fold::minimum:
      return run_one<T, T, Min>(p, out, [](auto x) { return x; });
    case Fold::maximum_abs:
      return run_one<T, T, Max>(p, out, [](auto x) { return magnitude(x); });
    case Fold::minimum_abs:
      return run_one<T, T, Min>(p, out, [](auto x) { return magnitude(x); });
    case Fold::sum_product:
      return run_two<T, T, T>(p, out, [](auto x, auto y) { return x * y; });
    case Fold::sum_deviation:
      return run_two<T, double, double>(p, out, [](D x, D y) { return (x - y) * (x - y); });
    case Fold::sum_exp:
      return run_two<T, T, T, kLongChains>(
          p, out, [](auto x, auto y) { return simd::exp<Lane<decltype(x)>>(x - y); });
  }
}

template void fold<float>(Fold, const ReduceProblem&, double, const FoldOutput&);
template void fold<double>(Fold, const ReduceProblem&, double, const FoldOutput&);

}  // namespace fastdl
