#include <cstring>

#include "ops/paged_attention/pool.h"
#include "ops/rope_append/rope_append.h"

namespace limpet::ops {
namespace {

// `from` may be `to`.
void rotate(const float* from, const float* table, int64_t rotary, int64_t head_dim, float* to) {
  const int64_t half = rotary / 2;
  const float *cosine = table, *sine = table + half;
  for (int64_t i = 0; i < half; ++i) {
    const float first = from[i], second = from[i + half];
    to[i] = first * cosine[i] - second * sine[i];
    to[i + half] = second * cosine[i] + first * sine[i];
  }
  for (int64_t i = rotary; i < head_dim; ++i) to[i] = from[i];
}

void store(const float* from, int64_t n, DType dtype, std::byte* to) {
  if (dtype == DType::f32) {
    std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
    return;
  }
  auto* out = reinterpret_cast<uint16_t*>(to);
  for (int64_t i = 0; i < n; ++i) out[i] = bf16_from_f32(from[i]);
}

void append_row(const Args& a, const Pool& pool, int64_t layer, int64_t r, int64_t page,
                int64_t in_page) {
  const TensorView &k = a.in[1], &v = a.in[2], &table = a.in[3];
  const int64_t dim = pool.head_dim, at = in_page * dim * size_of(pool.dtype);
  const float* angles = table.as<float>() + r * table.stride();
  float rotated[256];
  for (int64_t h = 0; h < pool.kv_heads; ++h) {
    rotate(k.as<float>() + r * k.stride() + h * dim, angles, table.cols(), dim, rotated);
    store(rotated, dim, pool.dtype, pool.rows(page, layer, 0, h) + at);
    store(v.as<float>() + r * v.stride() + h * dim, dim, pool.dtype,
          pool.rows(page, layer, 1, h) + at);
  }
}

}  // namespace

void run(const RopeAppend& op, CpuContext& cpu, const Args& a) {
  const TensorView &q = a.in[0], &table = a.in[3], &out = a.out[0];
  const Pool pool(a.in[7]);
  const PageTable pages(a.in[5], a.in[6]);
  const int32_t* positions = a.in[4].as<int32_t>();
  const int64_t rows = true_rows(a, out.rows());
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t index = positions[r] / pool.page_tokens;
    require(positions[r] >= 0 && pages.has(r, index), "RopeAppend", "position outside the tables");
    const int32_t page = pages.of_row(r)[index];
    require(page >= 0 && page < pool.pages, "RopeAppend", "page outside the pool");
  }
  cpu.parallel_for(rows, [&](int64_t r, int) {
    const int64_t position = positions[r], index = position / pool.page_tokens;
    append_row(a, pool, op.layer, r, pages.of_row(r)[index], position % pool.page_tokens);
    for (int64_t at = 0; at < q.cols(); at += pool.head_dim) {
      rotate(q.as<float>() + r * q.stride() + at, table.as<float>() + r * table.stride(),
             table.cols(), pool.head_dim, out.as<float>() + r * out.stride() + at);
    }
  });
}

}  // namespace limpet::ops
