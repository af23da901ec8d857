// AdamW and the norm that clips gradients.

#include <cmath>
#include <vector>

#include "rondo/kernels/cpu/rows.h"
#include "rondo/kernels/cpu/tasks.h"
#include "rondo/kernels/cpu/validate.h"
#include "rondo/kernels/kernels.h"

namespace rondo::kernels {

namespace {

void check_settings(const char* op, const AdamW& s) {
  check_argument(s.step >= 1, op, "expected a step of at least 1, got {}", s.step);
  check_argument(s.beta1 >= 0 && s.beta1 < 1 && s.beta2 >= 0 && s.beta2 < 1, op,
                 "expected beta1 and beta2 from 0 to below 1, got {} and {}", s.beta1, s.beta2);
  check_argument(s.epsilon >= 0, op, "expected an epsilon of at least 0, got {}", s.epsilon);
}

AdamWRow row_constants(const AdamW& s) {
  const double learning_rate = s.learning_rate, beta1 = s.beta1, beta2 = s.beta2,
               step = static_cast<double>(s.step);
  return {.gradient_scale = s.gradient_scale,
          .beta1 = s.beta1,
          .one_minus_beta1 = static_cast<float>(1 - beta1),
          .beta2 = s.beta2,
          .one_minus_beta2 = static_cast<float>(1 - beta2),
          .keep = static_cast<float>(1 - learning_rate * static_cast<double>(s.weight_decay)),
          .step_size = static_cast<float>(learning_rate / (1 - std::pow(beta1, step))),
          .inverse_root_correction = static_cast<float>(1 / std::sqrt(1 - std::pow(beta2, step))),
          .epsilon = s.epsilon};
}

}  // namespace

double sum_of_squares(Stream& stream, std::span<const float> x) {
  // At most 1024 parts, so that very long vectors need no long list of them.
  const auto length = static_cast<std::int64_t>(x.size());
  const std::int64_t part = std::max(kTaskElements / 2, (length + 1023) / 1024),
                     parts = (length + part - 1) / part;
  std::vector<double> sums(static_cast<std::size_t>(parts));
  const RowKernels& kernels = row_kernels(stream.isa());
  stream.pool().run(parts, [&](std::int64_t index, int) {
    const std::int64_t begin = index * part;
    sums[static_cast<std::size_t>(index)] =
        kernels.f32.sum_of_squares(x.data() + begin, std::min(part, length - begin));
  });
  double total = 0;
  for (double sum : sums) total += sum;
  return total;
}

void adamw(Stream& stream, const AdamW& settings, std::span<float> parameters,
           std::span<const float> gradients, std::span<float> first_moment, std::span<float> second_moment) {
  constexpr auto op = "adamw";
  const std::size_t n = parameters.size();
  check_settings(op, settings);
  check_argument(gradients.size() == n && first_moment.size() == n && second_moment.size() == n, op,
                 "expected gradients and moments of {} elements, got {}, {} and {}", n, gradients.size(),
                 first_moment.size(), second_moment.size());
  const AdamWRow row = row_constants(settings);
  const RowKernels& kernels = row_kernels(stream.isa());
  for_row_blocks(stream, static_cast<std::int64_t>(n), 1, [&](Range range, int) {
    kernels.adamw(row, parameters.data() + range.begin, gradients.data() + range.begin,
                  first_moment.data() + range.begin, second_moment.data() + range.begin, range.size());
  });
}

}  // namespace rondo::kernels
