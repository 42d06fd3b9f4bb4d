// Compares every operator with plain loops in double precision, so that a library that this processor
// cannot run, or that a compiler got wrong, is found out before anything is trained with it.
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "correlate.h"
#include "operator.h"

EFFNET_OPERATOR(effnet_depthwise_train);
EFFNET_OPERATOR(effnet_depthwise_infer);
EFFNET_OPERATOR(effnet_depthwise_backward);
EFFNET_OPERATOR(effnet_pointwise_train);
EFFNET_OPERATOR(effnet_pointwise_infer);
EFFNET_OPERATOR(effnet_pointwise_backward);
EFFNET_OPERATOR(effnet_expanded_train);
EFFNET_OPERATOR(effnet_expanded_backward);
EFFNET_OPERATOR(effnet_norm_train);
EFFNET_OPERATOR(effnet_norm_infer);
EFFNET_OPERATOR(effnet_norm_backward);
EFFNET_OPERATOR(effnet_squeeze_excite);
EFFNET_OPERATOR(effnet_squeeze_excite_backward);
EFFNET_OPERATOR(effnet_global_mean);
EFFNET_OPERATOR(effnet_global_mean_backward);
EFFNET_OPERATOR(effnet_mean_over_ranks);
extern "C" int64_t effnet_shared_bytes(int ranks);
extern "C" int effnet_join_memory(void* start, int rank, int ranks);

namespace {

using effnet::Act;
using effnet::Plane;
using Values = std::vector<double>;
using Shape = std::vector<int64_t>;

constexpr double kTolerance = 1e-4;
constexpr double kEps = 1e-3, kMomentum = 0.9;

struct Tensor {
  Shape shape;
  std::vector<float> data;

  explicit Tensor(Shape of) : shape(std::move(of)) {
    size_t size = 1;
    for (int64_t d : shape) size *= static_cast<size_t>(d);
    data.assign(size, NAN);
  }
  double operator()(int64_t i) const { return data[static_cast<size_t>(i)]; }
};

class Random {
 public:
  Tensor tensor(Shape shape, double centre, double reach) {
    Tensor t(std::move(shape));
    for (float& value : t.data) {
      state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
      value = static_cast<float>(centre + reach * (static_cast<double>(state_ >> 33) / 1073741824.0 - 1));
    }
    return t;
  }

 private:
  uint64_t state_ = 1;
};

using Operator = int (*)(int, void**, int*, int64_t**, const char**, void*, void*);

bool call(Operator op, const std::vector<Tensor*>& tensors) {
  std::vector<void*> data;
  std::vector<int> ranks;
  std::vector<int64_t*> shapes;
  for (Tensor* t : tensors) {
    data.push_back(t->data.data());
    ranks.push_back(static_cast<int>(t->shape.size()));
    shapes.push_back(t->shape.data());
  }
  return op(static_cast<int>(data.size()), data.data(), ranks.data(), shapes.data(), nullptr, nullptr,
            nullptr) == 0;
}

bool close(const Tensor& found, const Values& wanted) {
  double most = 1e-6, worst = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    most = std::max(most, std::fabs(wanted[i]));
    const double apart = std::fabs(static_cast<double>(found.data[i]) - wanted[i]);
    if (!(apart <= worst)) worst = apart;  // also where it is not a number
  }
  return found.data.size() == wanted.size() && worst <= kTolerance * most;
}

double logistic(double z) { return 1 / (1 + std::exp(-z)); }

double activate(Act act, double z) {
  if (act == Act::kSilu) return z * logistic(z);
  return act == Act::kRelu6 ? std::min(std::max(z, 0.0), 6.0) : z;
}

double slope(Act act, double z) {
  const double s = logistic(z);
  if (act == Act::kSilu) return s * (1 + z * (1 - s));
  return act == Act::kRelu6 ? (z > 0 && z < 6 ? 1 : 0) : 1;
}

struct Case {
  int64_t images, in, out, height, width;
  int kernel, stride;
  bool same, depthwise;
  Act act;
};

// Calls each(output element, input element, weight element) for the products of a convolution.
template <typename Each>
void each_product(const Case& c, const Plane& p, Each each) {
  const int64_t k = c.kernel, group = c.depthwise ? 1 : c.in;
  for (int64_t n = 0; n < c.images; ++n)
    for (int64_t m = 0; m < c.out; ++m)
      for (int64_t g = 0; g < group; ++g)
        for (int64_t i = 0; i < p.out_height; ++i)
          for (int64_t j = 0; j < p.out_width; ++j)
            for (int64_t ky = 0; ky < k; ++ky)
              for (int64_t kx = 0; kx < k; ++kx) {
                const int64_t y = i * c.stride + ky - p.top, x = j * c.stride + kx - p.left;
                if (y < 0 || y >= c.height || x < 0 || x >= c.width) continue;
                each(((n * c.out + m) * p.out_height + i) * p.out_width + j,
                     ((n * c.in + (c.depthwise ? m : g)) * c.height + y) * c.width + x,
                     (m * group + g) * k * k + ky * k + kx);
              }
}

bool layer(const Case& c, Random& random) {
  const Plane p(c.height, c.width, c.kernel, c.stride, c.same);
  const Shape per_channel{c.out}, out{c.images, c.out, p.out_height, p.out_width};
  Tensor x = random.tensor({c.images, c.in, c.height, c.width}, 0.3, 1);
  Tensor w = random.tensor({c.out, c.depthwise ? 1 : c.in, c.kernel, c.kernel}, 0, 0.5);
  Tensor gamma = random.tensor(per_channel, 1, 0.4), beta = random.tensor(per_channel, 1, 1);
  Tensor old_mean = random.tensor(per_channel, 0, 0.2), old_var = random.tensor(per_channel, 1, 0.5);
  Tensor dy = random.tensor(out, 0, 1);
  Tensor settings({6});
  settings.data = {static_cast<float>(kEps), static_cast<float>(kMomentum),
                   static_cast<float>(static_cast<int>(c.act)), static_cast<float>(c.stride),
                   c.same ? 1.0f : 0.0f, 1.0f};

  Values u(dy.data.size(), 0);
  each_product(c, p, [&](int64_t o, int64_t i, int64_t k) { u[static_cast<size_t>(o)] += x(i) * w(k); });
  Tensor convolved(out);
  for (size_t i = 0; i < u.size(); ++i) convolved.data[i] = static_cast<float>(u[i]);

  const int64_t size = p.out_size();
  const auto at = [&](int64_t n, int64_t m, int64_t i) {
    return static_cast<size_t>((n * c.out + m) * size + i);
  };
  const double count = static_cast<double>(c.images * size);
  Values y(u.size()), fixed_y(u.size()), du(u.size()), d_gamma, d_beta, mean, new_mean, new_var;
  Tensor rstd(per_channel);
  for (int64_t m = 0; m < c.out; ++m) {
    double sum = 0, squares = 0, dz_sum = 0, dz_x = 0;
    const auto each = [&](auto body) {
      for (int64_t n = 0; n < c.images; ++n)
        for (int64_t i = 0; i < size; ++i) body(at(n, m, i));
    };
    each([&](size_t i) { sum += u[i]; });
    const double middle = sum / count;
    each([&](size_t i) { squares += (u[i] - middle) * (u[i] - middle); });
    const double r = 1 / std::sqrt(squares / count + kEps), fixed_r = 1 / std::sqrt(old_var(m) + kEps);
    each([&](size_t i) {
      const double z = (u[i] - middle) * r * gamma(m) + beta(m);
      y[i] = activate(c.act, z);
      fixed_y[i] = activate(c.act, (u[i] - old_mean(m)) * fixed_r * gamma(m) + beta(m));
      du[i] = static_cast<double>(dy.data[i]) * slope(c.act, z);
      dz_sum += du[i];
      dz_x += du[i] * (u[i] - middle) * r;
    });
    each([&](size_t i) {
      du[i] = gamma(m) * r * (du[i] - dz_sum / count - (u[i] - middle) * r * dz_x / count);
    });
    d_beta.push_back(dz_sum);
    d_gamma.push_back(dz_x);
    mean.push_back(middle);
    rstd.data[static_cast<size_t>(m)] = static_cast<float>(r);
    new_mean.push_back(old_mean(m) * kMomentum + middle * (1 - kMomentum));
    new_var.push_back(old_var(m) * kMomentum + squares / (count - 1) * (1 - kMomentum));
  }
  Values dx(x.data.size(), 0), dw(w.data.size(), 0);
  each_product(c, p, [&](int64_t o, int64_t i, int64_t k) {
    dx[static_cast<size_t>(i)] += du[static_cast<size_t>(o)] * w(k);
    dw[static_cast<size_t>(k)] += du[static_cast<size_t>(o)] * x(i);
  });

  Tensor t_y(out), t_u(out), t_mean(per_channel), t_rstd(per_channel), t_new_mean(per_channel),
      t_new_var(per_channel), t_dx(x.shape), t_dw(w.shape), t_gamma(per_channel), t_beta(per_channel);
  std::vector<Tensor*> train{&x, &w, &gamma, &beta, &old_mean, &old_var, &settings, &t_y};
  if (!c.depthwise) train.push_back(&t_u);
  train.insert(train.end(), {&t_mean, &t_rstd, &t_new_mean, &t_new_var});
  if (!call(c.depthwise ? effnet_depthwise_train : effnet_pointwise_train, train)) return false;
  if (!close(t_y, y) || !close(t_mean, mean) || !close(t_new_mean, new_mean)) return false;
  if (!close(t_new_var, new_var)) return false;
  std::vector<Tensor*> back{&x, &w, &gamma, &beta, &t_mean, &t_rstd};
  if (!c.depthwise) back.push_back(&t_u);
  back.insert(back.end(), {&dy, &settings, &t_dx, &t_dw, &t_gamma, &t_beta});
  if (!call(c.depthwise ? effnet_depthwise_backward : effnet_pointwise_backward, back)) return false;
  if (!close(t_dx, dx) || !close(t_dw, dw) || !close(t_gamma, d_gamma)) return false;
  if (!close(t_beta, d_beta)) return false;
  Tensor fixed(out);
  if (!call(c.depthwise ? effnet_depthwise_infer : effnet_pointwise_infer,
            {&x, &w, &gamma, &beta, &old_mean, &old_var, &settings, &fixed}))
    return false;
  if (!close(fixed, fixed_y)) return false;

  Tensor n_y(out), n_du(out), n_fixed(out);
  if (!call(effnet_norm_train, {&convolved, &gamma, &beta, &old_mean, &old_var, &settings, &n_y,
                                &t_mean, &t_rstd, &t_new_mean, &t_new_var}))
    return false;
  if (!call(effnet_norm_backward, {&convolved, &gamma, &beta, &t_mean, &t_rstd, &dy, &settings, &n_du,
                                   &t_gamma, &t_beta}))
    return false;
  if (!call(effnet_norm_infer,
            {&convolved, &gamma, &beta, &old_mean, &old_var, &settings, &n_fixed}))
    return false;
  return close(n_y, y) && close(n_du, du) && close(t_gamma, d_gamma) && close(n_fixed, fixed_y);
}

Values doubles(const Tensor& t) { return Values(t.data.begin(), t.data.end()); }

// An expansion with its depthwise layer, against the two operators that `layer` tests.
bool expanded(const Case& c, Random& random) {
  const Plane p(c.height, c.width, c.kernel, c.stride, c.same);
  const Shape per_channel{c.out}, inner{c.images, c.out, c.height, c.width};
  const Shape out{c.images, c.out, p.out_height, p.out_width};
  Tensor x = random.tensor({c.images, c.in, c.height, c.width}, 0.3, 1), dy = random.tensor(out, 0, 1);
  Tensor w1 = random.tensor({c.out, c.in, 1, 1}, 0, 0.5);
  Tensor w2 = random.tensor({c.out, 1, c.kernel, c.kernel}, 0, 0.5);
  std::vector<Tensor> of_channels;  // gamma, beta, mean, variance of the one and of the other
  for (int i = 0; i < 8; ++i) of_channels.push_back(random.tensor(per_channel, 1, 0.5));
  Tensor &g1 = of_channels[0], &b1 = of_channels[1], &m1 = of_channels[2], &v1 = of_channels[3];
  Tensor &g2 = of_channels[4], &b2 = of_channels[5], &m2 = of_channels[6], &v2 = of_channels[7];
  Tensor settings({6}), plain({6});
  settings.data = {static_cast<float>(kEps), static_cast<float>(kMomentum),
                   static_cast<float>(static_cast<int>(c.act)), static_cast<float>(c.stride),
                   c.same ? 1.0f : 0.0f, 1.0f};
  plain.data = settings.data;
  plain.data[3] = 1.0f;
  const std::vector<Tensor> statistics(4, Tensor(per_channel));

  std::vector<Tensor> a = statistics, b = statistics, d = statistics, e = statistics;
  Tensor inner_y(inner), inner_u(inner), inner_dy(inner), y(out), dx(x.shape), dw1(w1.shape),
      dw2(w2.shape);
  if (!call(effnet_pointwise_train, {&x, &w1, &g1, &b1, &m1, &v1, &plain, &inner_y, &inner_u, &a[0], &a[1],
                                     &a[2], &a[3]}) ||
      !call(effnet_depthwise_train,
            {&inner_y, &w2, &g2, &b2, &m2, &v2, &settings, &y, &b[0], &b[1], &b[2], &b[3]}) ||
      !call(effnet_depthwise_backward, {&inner_y, &w2, &g2, &b2, &b[0], &b[1], &dy, &settings, &inner_dy,
                                        &dw2, &d[2], &d[3]}) ||
      !call(effnet_pointwise_backward, {&x, &w1, &g1, &b1, &a[0], &a[1], &inner_u, &inner_dy, &plain, &dx,
                                        &dw1, &d[0], &d[1]}))
    return false;

  std::vector<Tensor> f = statistics, g = statistics;
  Tensor t_y(out), t_u(inner), t_dx(x.shape), t_dw1(w1.shape), t_dw2(w2.shape), memory(inner);
  if (!call(effnet_expanded_train, {&x,    &w1,   &g1,   &b1,   &m1,   &v1,   &w2,   &g2,
                                    &b2,   &m2,   &v2,   &settings, &t_y, &t_u, &f[0], &f[1],
                                    &f[2], &f[3], &g[0], &g[1], &g[2], &g[3]}) ||
      !call(effnet_expanded_backward,
            {&x, &w1, &g1, &b1, &w2, &g2, &b2, &f[0], &f[1], &g[0], &g[1], &t_u, &dy, &settings, &t_dx,
             &t_dw1, &e[0], &e[1], &t_dw2, &e[2], &e[3], &memory}))
    return false;
  for (size_t i = 0; i < 4; ++i) {
    if (!close(f[i], doubles(a[i])) || !close(g[i], doubles(b[i])) || !close(e[i], doubles(d[i])))
      return false;
  }
  return close(t_y, doubles(y)) && close(t_dx, doubles(dx)) && close(t_dw1, doubles(dw1)) &&
         close(t_dw2, doubles(dw2));
}

bool squeeze_excite(int64_t N, int64_t C, int64_t S, int64_t height, int64_t width, Random& random) {
  const int64_t size = height * width;
  Tensor x = random.tensor({N, C, height, width}, 0.2, 1), dy = random.tensor(x.shape, 0, 1);
  Tensor w1 = random.tensor({S, C, 1, 1}, 0, 0.5), b1 = random.tensor({S}, 0, 1);
  Tensor w2 = random.tensor({C, S, 1, 1}, 0, 0.5), b2 = random.tensor({C}, 0, 1);
  Values means, y, dx(x.data.size()), dw1(w1.data.size()), db1(b1.data.size()), dw2(w2.data.size()),
      db2(b2.data.size()), spread_back;
  const auto add = [](Values& to, int64_t i, double value) { to[static_cast<size_t>(i)] += value; };
  for (int64_t n = 0; n < N; ++n) {
    Values m(static_cast<size_t>(C)), h, g, d_gate;
    for (int64_t c = 0; c < C; ++c)
      for (int64_t i = 0; i < size; ++i)
        m[static_cast<size_t>(c)] += x((n * C + c) * size + i) / static_cast<double>(size);
    for (int64_t s = 0; s < S; ++s) {
      double sum = b1(s);
      for (int64_t c = 0; c < C; ++c) sum += w1(s * C + c) * m[static_cast<size_t>(c)];
      h.push_back(sum);
    }
    Values d_hidden(h.size()), d_mean(m.size());
    for (int64_t c = 0; c < C; ++c) {
      double sum = b2(c), d = 0;
      for (int64_t s = 0; s < S; ++s) {
        sum += w2(c * S + s) * activate(Act::kSilu, h[static_cast<size_t>(s)]);
      }
      g.push_back(logistic(sum));
      for (int64_t i = 0; i < size; ++i) {
        const int64_t at = (n * C + c) * size + i;
        y.push_back(x(at) * g.back());
        d += x(at) * dy(at);
      }
      d *= g.back() * (1 - g.back());
      add(db2, c, d);
      for (int64_t s = 0; s < S; ++s) {
        add(dw2, c * S + s, d * activate(Act::kSilu, h[static_cast<size_t>(s)]));
        add(d_hidden, s, d * w2(c * S + s));
      }
    }
    for (int64_t s = 0; s < S; ++s) {
      const double d = d_hidden[static_cast<size_t>(s)] * slope(Act::kSilu, h[static_cast<size_t>(s)]);
      add(db1, s, d);
      for (int64_t c = 0; c < C; ++c) {
        add(dw1, s * C + c, d * m[static_cast<size_t>(c)]);
        add(d_mean, c, d * w1(s * C + c));
      }
    }
    for (int64_t c = 0; c < C; ++c)
      for (int64_t i = 0; i < size; ++i) {
        const int64_t at = (n * C + c) * size + i;
        const double of_mean = d_mean[static_cast<size_t>(c)] / static_cast<double>(size);
        add(dx, at, dy(at) * g[static_cast<size_t>(c)] + of_mean);
        spread_back.push_back(m[static_cast<size_t>(c)] / static_cast<double>(size));
      }
    means.insert(means.end(), m.begin(), m.end());
  }
  Tensor t_y(x.shape), t_means({N, C}), t_hidden({N, S}), t_gates({N, C});
  Tensor t_dx(x.shape), t_dw1(w1.shape), t_db1({S}), t_dw2(w2.shape), t_db2({C});
  Tensor pooled({N, C}), unpooled(x.shape);
  return call(effnet_squeeze_excite, {&x, &w1, &b1, &w2, &b2, &t_y, &t_means, &t_hidden, &t_gates}) &&
         call(effnet_squeeze_excite_backward, {&x, &w1, &w2, &t_means, &t_hidden, &t_gates, &dy, &t_dx,
                                               &t_dw1, &t_db1, &t_dw2, &t_db2}) &&
         call(effnet_global_mean, {&x, &pooled}) &&
         call(effnet_global_mean_backward, {&x, &pooled, &unpooled}) && close(t_y, y) &&
         close(t_dx, dx) && close(t_dw1, dw1) && close(t_db1, db1) && close(t_dw2, dw2) &&
         close(t_db2, db2) && close(pooled, means) && close(unpooled, spread_back);
}

bool mean_as_rank(void* memory, int rank, int ranks) {
  if (effnet_join_memory(memory, rank, ranks) != 0) return false;
  for (int64_t size : {1, 200000, 65536, 131073, 7}) {
    Tensor x({size}), mean({size});
    Values expected;
    for (int64_t i = 0; i < size; ++i) {
      double sum = 0;
      for (int of = 0; of < ranks; ++of) sum += static_cast<double>((i + 3) * (of + 1) % 1009);
      expected.push_back(sum / ranks);
      x.data[static_cast<size_t>(i)] = static_cast<float>((i + 3) * (rank + 1) % 1009);
    }
    if (!call(effnet_mean_over_ranks, {&x, &mean}) || !close(mean, expected)) return false;
  }
  return true;
}

// This process is the first rank; the others are children of it.
bool mean_over_ranks(int ranks) {
  const auto bytes = static_cast<size_t>(effnet_shared_bytes(ranks));
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return false;
  std::vector<pid_t> children;
  for (int rank = 1; rank < ranks; ++rank) {
    const pid_t child = fork();
    if (child == 0) _exit(mean_as_rank(memory, rank, ranks) ? 0 : 1);
    if (child < 0) return false;
    children.push_back(child);
  }
  bool right = mean_as_rank(memory, 0, ranks);
  for (pid_t child : children) {
    int status = 1;
    right = waitpid(child, &status, 0) == child && status == 0 && right;
  }
  munmap(memory, bytes);
  return right;
}

}  // namespace

// Returns 0, or the number of the first case that is wrong. With `all`, more sizes are tried.
extern "C" int effnet_self_test(int all) {
  Random random;
  int number = 1;  // first, while there are no threads that a child would lack
  if (!mean_over_ranks(2) || !mean_over_ranks(3)) return number;
  const Shape sides = all ? Shape{2, 3, 7, 8, 9, 15, 16, 33} : Shape{9};
  const std::vector<Act> acts{Act::kNone, Act::kSilu, Act::kRelu6};
  for (int64_t side : sides) {
    for (int stride : {1, 2}) {
      for (int kernel : {3, 5}) {
        for (bool same : {false, true}) {
          const Act act = acts[static_cast<size_t>(number) % 3];
          ++number;
          const Case depthwise{3, 5, 5, side, side + 6, kernel, stride, same, true, act};
          if (!layer(depthwise, random)) return number;
          const Case both{2, 3, 7, side, side + 3, kernel, stride, same, true, act};
          if (!expanded(both, random)) return number;
        }
      }
    }
    for (Act act : acts) {
      ++number;
      const Case wide{3, 7, 37, side, side + 2, 1, 1, false, false, act};
      const Case narrow{2, 50, 13, side, side, 1, 1, false, false, act};
      if (!layer(wide, random) || !layer(narrow, random)) return number;
    }
    ++number;
    if (!squeeze_excite(3, 19, 5, side, side + 1, random)) return number;
  }
  return 0;
}
