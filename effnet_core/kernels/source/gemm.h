// Products of small matrices that lie in the cache, as a 1x1 convolution needs them.
//
// Pixels of all images are the columns 0 .. images * size - 1. A block of columns is kept in panels of
// kPanel columns: element (row, column) at panel * rows * kPanel + row * kPanel + column % kPanel.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "vector.h"

namespace effnet {

#if defined(__AVX512F__)
constexpr int kTileRows = 12;
#else
constexpr int kTileRows = 6;
#endif
constexpr int kTileVectors = 2;
constexpr int kPanel = kTileVectors * kLanes;

constexpr int64_t strips_of(int64_t rows) { return (rows + kTileRows - 1) / kTileRows; }
constexpr int64_t panels_of(int64_t columns) { return (columns + kPanel - 1) / kPanel; }

// Some columns of one panel that belong to one image, so that they lie side by side in memory.
struct Piece {
  int64_t panel, lane, count, image, pixel;
};

inline void cut_into_pieces(int64_t begin, int64_t end, int64_t size, std::vector<Piece>& pieces) {
  pieces.clear();
  for (int64_t j = begin; j < end;) {
    const int64_t lane = (j - begin) % kPanel, pixel = j % size;
    const int64_t count = std::min({kPanel - lane, size - pixel, end - j});
    pieces.push_back({(j - begin) / kPanel, lane, count, j / size, pixel});
    j += count;
  }
}

// Calls each(row, offset in the tensor, place in the panels, count) for the runs of a block that lie side
// by side both in a tensor (images, rows, size) and in panels. Row by row, so that memory is read in order.
template <typename Each>
EFFNET_INLINE void for_runs(int64_t rows, int64_t size, const std::vector<Piece>& pieces, Each each) {
  for (int64_t r = 0; r < rows; ++r) {
    for (const Piece& piece : pieces) {
      each(r, (piece.image * rows + r) * size + piece.pixel,
           (piece.panel * rows + r) * kPanel + piece.lane, piece.count);
    }
  }
}

// Sets the columns after the last one of a block to zero, as far as its last panel goes.
inline void clear_rest(int64_t rows, const std::vector<Piece>& pieces, float* panels) {
  const Piece& last = pieces.back();
  for (int64_t r = 0; r < rows; ++r) {
    float* row = panels + (last.panel * rows + r) * kPanel;
    std::fill(row + last.lane + last.count, row + kPanel, 0.0f);
  }
}

// Copies a block of x (images, rows, size) into panels; columns that do not exist are zero.
inline void pack_columns(const float* x, int64_t rows, int64_t size, const std::vector<Piece>& pieces,
                         float* panels) {
  for_runs(rows, size, pieces, [&](int64_t, int64_t from, int64_t to, int64_t count) {
    if (count == kPanel) {
      for (int v = 0; v < kTileVectors; ++v) {
        store(panels + to + v * kLanes, load<Wide>(x + from + v * kLanes));
      }
    } else {
      copy_few(x + from, panels + to, count);
    }
  });
  clear_rest(rows, pieces, panels);
}

// Copies a matrix into strips of kTileRows rows: element (row, step) at row * row_step + step * step_step
// goes to strip * steps * kTileRows + step * kTileRows + row % kTileRows. Rows that do not exist are zero.
inline void pack_rows(const float* matrix, int64_t rows, int64_t steps, int64_t row_step,
                      int64_t step_step, float* strips) {
  for (int64_t strip = 0; strip < strips_of(rows); ++strip) {
    float* to = strips + strip * steps * kTileRows;
    for (int64_t r = 0; r < kTileRows; ++r) {
      const int64_t row = strip * kTileRows + r;
      for (int64_t k = 0; k < steps; ++k) {
        to[k * kTileRows + r] = row < rows ? matrix[row * row_step + k * step_step] : 0.0f;
      }
    }
  }
}

struct Tile {
  Wide sums[kTileRows][kTileVectors];
};

// One tile of a product: a strip of rows times a panel.
EFFNET_INLINE void multiply(const float* strip, const float* panel, int64_t steps, Tile& tile) {
  Wide sums[kTileRows][kTileVectors] = {};
  for (int64_t k = 0; k < steps; ++k) {
    Wide columns[kTileVectors];
    for (int v = 0; v < kTileVectors; ++v) columns[v] = load<Wide>(panel + k * kPanel + v * kLanes);
    for (int r = 0; r < kTileRows; ++r) {
      const Wide factor = spread<Wide>(strip[k * kTileRows + r]);
      for (int v = 0; v < kTileVectors; ++v) sums[r][v] += factor * columns[v];
    }
  }
  std::memcpy(tile.sums, sums, sizeof sums);
}

// The product of strips (rows x steps) with panels (steps x columns), written to y (images, rows, size).
// change(row, value) is applied to each vector before it is written.
template <typename Change>
void multiply_block(const float* strips, int64_t rows, int64_t steps, const float* panels,
                    const std::vector<Piece>& pieces, int64_t size, float* y, Change change) {
  for (int64_t strip = 0; strip < strips_of(rows); ++strip) {
    const int64_t first = strip * kTileRows, count = std::min<int64_t>(kTileRows, rows - first);
    Tile tile;
    int64_t computed = -1;
    for (const Piece& piece : pieces) {
      if (piece.panel != computed) {
        computed = piece.panel;
        multiply(strips + strip * steps * kTileRows, panels + computed * steps * kPanel, steps, tile);
        for (int64_t r = 0; r < count; ++r) {
          for (int v = 0; v < kTileVectors; ++v) {
            tile.sums[r][v] = change(first + r, tile.sums[r][v]);
          }
        }
      }
      float* to = y + (piece.image * rows + first) * size + piece.pixel;
      for (int64_t r = 0; r < count; ++r) {
        const float* from = reinterpret_cast<const float*>(tile.sums[r]) + piece.lane;
        if (piece.count == kPanel) {
          for (int v = 0; v < kTileVectors; ++v) {
            store(to + r * size + v * kLanes, load<Wide>(from + v * kLanes));
          }
        } else {
          copy_few(from, to + r * size, piece.count);
        }
      }
    }
  }
}

// Panels (rows x columns) turned: groups of kPanel rows, element (row, column) at
// group * columns * kPanel + column * kPanel + row % kPanel. Rows that do not exist are zero.
inline void turn_panels(const float* panels, int64_t rows, int64_t panel_count, float* turned) {
  const int64_t columns = panel_count * kPanel;
  for (int64_t group = 0; group < panels_of(rows); ++group) {
    const int64_t first = group * kPanel, count = std::min<int64_t>(kPanel, rows - first);
    for (int64_t panel = 0; panel < panel_count; ++panel) {
      const float* from = panels + (panel * rows + first) * kPanel;
      float* to = turned + (group * columns + panel * kPanel) * kPanel;
      if (count < kPanel) std::fill(to, to + kPanel * kPanel, 0.0f);
      for (int64_t c = 0; c < kPanel; ++c) {
        for (int64_t r = 0; r < count; ++r) to[c * kPanel + r] = from[r * kPanel + c];
      }
    }
  }
}

// The product of kTileRows rows of panels with a group of turned panels, over all columns. Row r of a panel is
// at offset(r).
template <typename Offset>
EFFNET_INLINE void multiply_turned(const float* panels, int64_t panel_floats, const float* columns,
                                   int64_t panel_count, Offset offset, Tile& tile) {
  Wide sums[kTileRows][kTileVectors] = {};
  for (int64_t panel = 0; panel < panel_count; ++panel, panels += panel_floats) {
    for (int64_t c = 0; c < kPanel; ++c, columns += kPanel) {
      Wide values[kTileVectors];
      for (int v = 0; v < kTileVectors; ++v) values[v] = load<Wide>(columns + v * kLanes);
      for (int r = 0; r < kTileRows; ++r) {
        const Wide factor = spread<Wide>(panels[offset(r) + c]);
        for (int v = 0; v < kTileVectors; ++v) sums[r][v] += factor * values[v];
      }
    }
  }
  std::memcpy(tile.sums, sums, sizeof sums);
}

// total (rows x turned_rows) += panels (rows x columns) times turned panels. A row of `total` is
// panels_of(turned_rows) * kPanel wide.
inline void add_outer_products(const float* panels, int64_t rows, const float* turned,
                               int64_t turned_rows, int64_t panel_count, float* total) {
  const int64_t groups = panels_of(turned_rows), width = groups * kPanel;
  for (int64_t strip = 0; strip < strips_of(rows); ++strip) {
    const int64_t first = strip * kTileRows, count = std::min<int64_t>(kTileRows, rows - first);
    const float* factors = panels + first * kPanel;
    for (int64_t group = 0; group < groups; ++group) {
      const float* columns = turned + group * panel_count * kPanel * kPanel;
      Tile tile;
      if (count == kTileRows) {
        multiply_turned(factors, rows * kPanel, columns, panel_count,
                        [](int r) { return int64_t{r} * kPanel; }, tile);
      } else {  // of rows that do not exist: the last, computed in vain
        multiply_turned(factors, rows * kPanel, columns, panel_count,
                        [&](int r) { return std::min<int64_t>(r, count - 1) * kPanel; }, tile);
      }
      for (int64_t r = 0; r < count; ++r) {
        float* to = total + (first + r) * width + group * kPanel;
        for (int v = 0; v < kTileVectors; ++v) {
          store(to + v * kLanes, load<Wide>(to + v * kLanes) + tile.sums[r][v]);
        }
      }
    }
  }
}

}  // namespace effnet
