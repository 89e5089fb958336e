// Shapes, and views of device memory that somebody else owns. Plain data.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>

#include "ops/dtype.h"

namespace limpet {

// Row-major extents, at most 6. A "row" is the last axis; cols() is its length.
struct Shape {
  std::array<int64_t, 6> dim{1, 1, 1, 1, 1, 1};
  int rank = 0;

  constexpr Shape() = default;
  constexpr Shape(std::initializer_list<int64_t> extents) {
    for (const int64_t d : extents) dim.at(static_cast<size_t>(rank++)) = d;
  }
  constexpr int64_t operator[](int axis) const { return dim[static_cast<size_t>(axis)]; }
  constexpr int64_t cols() const { return rank == 0 ? 1 : (*this)[rank - 1]; }
  constexpr int64_t rows() const {
    int64_t n = 1;
    for (int i = 0; i + 1 < rank; ++i) n *= (*this)[i];
    return n;
  }
  constexpr int64_t elements() const { return rows() * cols(); }
  bool operator==(const Shape&) const = default;
};

// How the elements of a tensor lie in memory. Packed layouts are made by Backend::pack, are
// private to a backend's kernels of the op they are named after, and are for weights alone.
enum class Layout : uint8_t {
  dense,   // row-major
  linear,  // [n, k] for Linear (and for Embedding, when it shares the head's weight)
  gated,   // gate [n, k] and up [n, k] together for GatedLinear; its shape is [2 n, k]
};

// A typed, shaped view of device memory. Rows of a dense view may be `row_stride` elements apart
// (a slice of columns of a wider tensor); 0 means cols().
struct TensorView {
  void* data = nullptr;
  DType dtype = DType::f32;
  Layout layout = Layout::dense;
  Shape shape;
  int64_t row_stride = 0;

  int64_t rows() const { return shape.rows(); }
  int64_t cols() const { return shape.cols(); }
  int64_t stride() const { return row_stride != 0 ? row_stride : shape.cols(); }
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

// A weight in host memory, row-major [rows, cols]; f32, f16 or bf16.
struct WeightSource {
  const void* data = nullptr;
  DType dtype = DType::f32;
  int64_t rows = 0, cols = 0;
  // If not null, told on the caller's thread that these bytes of `data` will not be read again;
  // a backend may leave it out.
  void (*done)(const void* from, size_t bytes) = nullptr;
};

// Operands of one op, in the order that its header gives.
struct Args {
  std::span<const TensorView> in;
  std::span<const TensorView> out;
  // Where the device finds how many rows of the outputs are true; rows beyond it are neither read
  // nor written. Null: all that the shapes say.
  const int32_t* count = nullptr;
};

}  // namespace limpet
