// Copies of short rows, for which a call of memcpy costs more than the copy.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace anybev {

template <class T>
inline void copy_row(const T* source, int64_t columns, T* target) {
  switch (columns) {
    case 3:
      std::memcpy(target, source, 3 * sizeof(T));
      break;
    case 4:
      std::memcpy(target, source, 4 * sizeof(T));
      break;
    case 5:
      std::memcpy(target, source, 5 * sizeof(T));
      break;
    default:
      std::copy_n(source, columns, target);
  }
}

}  // namespace anybev
